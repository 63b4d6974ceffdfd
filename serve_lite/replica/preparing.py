"""What a preparer child does: make one part of an environment, next to its final name, and rename it when it is done.

So a part that has its name is complete, whatever happened to those who made it. The part is made by `archives.py`
or `interpreters.py`; who asks for it and who may use it is the business of `controller/environments.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import traceback
from pathlib import Path

import msgspec

from serve_lite.processes import die_with_parent
from serve_lite.replica.archives import prepare_archive
from serve_lite.replica.importing import answer
from serve_lite.replica.interpreters import prepare_interpreter
from serve_lite.replica.preparation_error import PreparationError
from serve_lite.state.environment import Archive, without_credentials
from serve_lite.wire.spawning import PREPARED_FILE, Prepared, PrepareReply, PrepareRequest


def main(sock: socket.socket) -> None:
    """Read one request, prepare, write one reply. When told to end, end pip and all that it started too."""
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))  # we lead a group of our own
    die_with_parent(signal.SIGTERM)
    answer(sock, PrepareRequest, _reply_to)


def prepare(request: PrepareRequest) -> Prepared:
    """Make the part and give it its name; if somebody else was quicker, theirs is used.

    Raises:
        PreparationError: it cannot be made. Nothing of it is left.
    """
    final = Path(request.folder, request.name)
    making = Path(request.folder, request.making)
    try:
        making.mkdir(mode=0o700, parents=True)
        if isinstance(request.part, Archive):
            prepared = prepare_archive(request.part, making, request.limits)
        else:
            prepared = prepare_interpreter(request.part, making, final)
        (making / PREPARED_FILE).write_bytes(msgspec.json.encode(prepared))
        _put(making, final)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PreparationError(f"{error.strerror or error}{where}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)  # has its new name already if all went well
    return prepared


def _put(making: Path, final: Path) -> None:
    """Give a complete folder its name. What has it already is another complete one, or not usable any more."""
    if final.exists() and not (final / PREPARED_FILE).exists():
        shutil.rmtree(final)
    try:
        making.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _reply_to(request: PrepareRequest) -> PrepareReply:
    try:
        return PrepareReply(prepared=prepare(request))
    except PreparationError as error:
        print(f"not prepared: {error}", flush=True)  # noqa: T201  # our output is the log
        return PrepareReply(failure=without_credentials(str(error)))
    except Exception as error:  # boundary: a fault of ours must be an answer, not a silence
        print(without_credentials(traceback.format_exc()), flush=True)  # noqa: T201
        return PrepareReply(failure=without_credentials(f"{type(error).__name__}: {error}"))
