"""How a replica writes its logs: one handler on the root logger, so that users' own loggers go the same way.

Every record carries `request_id`, `route`, `application`, `deployment` and `replica`. `logging.getLogger("ray.serve")`,
the logger that Ray Serve's users write to, is a logger like any other here.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Mapping
from io import TextIOWrapper
from typing import Any, Final, TextIO

from serve_lite.config import EncodingType, LoggingConfig
from serve_lite.context import ReplicaContext, current_request

_TEXT = "%(levelname)s %(asctime)s %(deployment)s %(replica)s %(request_id)s %(name)s -- %(message)s"
_JSON_FIELDS = ("request_id", "route", "application", "deployment", "replica")

#: of a file in `logs_dir`, as Ray Serve's (RAY_ROTATION_MAX_BYTES, RAY_ROTATION_BACKUP_COUNT)
_FILE_BYTES = 100 * 1024 * 1024
_OLD_FILES = 5

_NO_RECORD: Final = logging.LogRecord("ray.serve", logging.INFO, "", 0, "the access log", None, None)


class _File(logging.handlers.RotatingFileHandler):
    """A file in `logs_dir`, which is open from the beginning."""

    stream: TextIOWrapper


def configure(config: Mapping[str, Any] | None, context: ReplicaContext) -> AccessStreams | None:
    """Write this process's logs as `config` says, from now on. May be called again.

    Returns where lines of the access log go; None if there are to be none.

    The level is that of the root logger, so it also holds for loggers that have none of their own. With
    `logs_dir` the lines go into a file there too, named `replica_<app>_<deployment>_<id>.log`, which is rotated
    at 100 MB.

    Raises:
        OSError: there can be no file in `logs_dir`.
    """
    options = LoggingConfig(**(config or {}))
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if options.logs_dir is not None:
        handlers.append(_file_handler(options.logs_dir, context))
    is_json = options.encoding is EncodingType.JSON
    formatter = JsonFormatter(options.additional_log_standard_attrs) if is_json else logging.Formatter(_TEXT)
    add_context = ContextFilter(context)
    root = logging.getLogger()
    for old in [h for h in root.handlers if getattr(h, "_serve_lite", False)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler._serve_lite = True  # type: ignore[attr-defined]  # ours to replace; a user's own handlers stay
        handler.setFormatter(formatter)
        handler.addFilter(add_context)
        root.addHandler(handler)
    root.setLevel(options.log_level)
    if not options.enable_access_log or root.level > logging.INFO:
        return None
    return AccessStreams([h for h in handlers if isinstance(h, logging.StreamHandler)], is_json)


class AccessStreams:
    """Where the access log goes: the files that other lines go to, between two of them."""

    def __init__(self, handlers: list[logging.StreamHandler[TextIO]], is_json: bool) -> None:
        self._handlers = handlers
        self.is_json = is_json  #: what lines there look like

    def write(self, text: str) -> None:
        """Add whole lines. What cannot be written is reported as the logging module does."""
        for handler in self._handlers:
            handler.acquire()
            try:
                handler.stream.write(text)
                handler.flush()
                if isinstance(handler, _File) and handler.stream.tell() >= _FILE_BYTES:
                    handler.doRollover()
            except (OSError, ValueError):  # a full disk, or a stream that user code has closed
                handler.handleError(_NO_RECORD)
            finally:
                handler.release()


def _file_handler(folder: str, context: ReplicaContext) -> logging.Handler:
    os.makedirs(folder, exist_ok=True)
    name = f"replica_{context.app_name}_{context.deployment}_{context.replica_tag}.log"
    path = os.path.join(folder, "".join(c if c.isalnum() or c in "._-" else "_" for c in name))
    return _File(path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, delay=False)


class ContextFilter(logging.Filter):
    """Notes on each record where it comes from."""

    def __init__(self, context: ReplicaContext) -> None:
        super().__init__()
        self._context = context

    def filter(self, record: logging.LogRecord) -> bool:
        request = current_request()
        record.request_id = request.request_id if request is not None and request.request_id else "-"
        record.route = request.route if request is not None else ""
        record.application = self._context.app_name
        record.deployment = self._context.deployment
        record.replica = self._context.replica_tag
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line; values that JSON has no word for are written as text."""

    def __init__(self, extra: list[str]) -> None:
        super().__init__()
        self._extra = extra

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "asctime": utc(record.created),
            "levelname": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in (*_JSON_FIELDS, *self._extra):
            value = getattr(record, name, None)
            if value not in (None, "", "-"):
                line[name] = value
        if record.exc_info:
            line["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def utc(seconds: float) -> str:
    """Return a Unix time as JSON lines have it."""
    whole, rest = divmod(seconds, 1)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(rest * 1000):03d}Z"
