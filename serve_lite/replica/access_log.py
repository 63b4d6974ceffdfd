"""The access log of a replica: a line for each request, where Ray Serve has it, among the replica's other lines.

A request pays for one tuple. Lines are made many at a time, in the shape of `logs`, and written past the logging
module, which would cost more than most requests; so handlers and filters that users add do not see them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Final

from serve_lite.context import ReplicaContext
from serve_lite.logs import AccessStreams, utc
from serve_lite.rotation import bound_own

LOGGER: Final = "ray.serve"  #: whose lines they are, as in Ray Serve
_WRITE_EVERY_S: Final = 0.2
_WRITE_AT_LINES: Final = 256  #: or as soon as there are so many: a quarter of a millisecond's work

_log = logging.getLogger("serve_lite.replica")

#: Unix time, request id, what was asked, route, outcome, milliseconds
_Line = tuple[float, str, str, str, int | str, float]


class ReplicaAccessLog:
    """Lines that wait to be written.

    Lifetime: used on the replica's loop, from the first line to `flush`, which writes what is left.
    """

    def __init__(self, streams: AccessStreams, context: ReplicaContext) -> None:
        self._streams = streams
        self._context = context
        self._whose = f"{context.deployment} {context.replica_tag}"
        self._lines: list[_Line] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = (0, "")  #: formatted last
        self._has_complained = False

    def note(self, request_id: str, asked: str, route: str, outcome: int | str, latency_ms: float) -> None:
        """Note a request that has ended.

        Args:
            asked: `GET /route`, `CALL method` or a gRPC method.
            outcome: HTTP's status, else OK, ERROR or CANCELLED.
        """
        lines = self._lines
        lines.append((time.time(), request_id, asked, route, outcome, latency_ms))
        if len(lines) >= _WRITE_AT_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self._tick)

    def flush(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        if lines:
            make = self._as_json if self._streams.is_json else self._as_text
            self._streams.write("".join(map(make, lines)))
            try:
                bound_own("replica_")
            except OSError as error:  # a full disk: what does not fit is dropped (`outputs`)
                if not self._has_complained:
                    self._has_complained = True
                    _log.warning("the log of this replica is full, and a new one cannot be begun: %s", error)

    def close(self) -> None:
        """Write what is left; another log takes over, or nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _tick(self) -> None:
        self._timer = None
        self.flush()

    def _as_text(self, line: _Line) -> str:
        at, request_id, asked, _, outcome, latency_ms = line
        whole = int(at)
        second, begin = self._second
        if whole != second:
            begin = time.strftime("INFO %Y-%m-%d %H:%M:%S", time.localtime(whole))
            self._second = (whole, begin)
        return (
            f"{begin},{int((at - whole) * 1000):03d} {self._whose} {request_id or '-'} {LOGGER} -- {asked} {outcome} "
            f"{latency_ms:.1f}ms\n"
        )

    def _as_json(self, line: _Line) -> str:
        at, request_id, asked, route, outcome, latency_ms = line
        context = self._context
        record = {
            "asctime": utc(at),
            "levelname": "INFO",
            "logger": LOGGER,
            "message": f"{asked} {outcome} {latency_ms:.1f}ms",
            "request_id": request_id,
            "route": route,
            "application": context.app_name,
            "deployment": context.deployment,
            "replica": context.replica_tag,
            "serve_access_log": True,
        }
        return json.dumps({name: value for name, value in record.items() if value != ""}) + "\n"
