"""What the child of `serve build` does: build one application where the command line stands, and answer with data.

The answer goes to a descriptor of its own. What user code prints goes to stderr, because the command's own output
is a document. How an import path becomes deployments is told in `importing.py`.
"""

from __future__ import annotations

import os
import sys
import traceback

import msgspec

from serve_lite.deployment import Application
from serve_lite.replica.importing import TargetError, build, failure_of, import_target
from serve_lite.state.goal import BuildRequest
from serve_lite.wire.spawning import BuildReply


def main() -> None:
    """Build the application that the arguments name: descriptor for the answer, folder, import path."""
    descriptor, app_dir, import_path = sys.argv[1:]
    os.dup2(2, 1)
    sys.path.insert(0, app_dir)
    body = msgspec.msgpack.encode(_reply_to(import_path))
    with os.fdopen(int(descriptor), "wb") as answer:
        answer.write(body)


def _reply_to(import_path: str) -> BuildReply:
    try:
        check_bound(import_target(import_path), import_path)
        return BuildReply(result=build(BuildRequest(app_name="build", import_path=import_path)))
    except BaseException as error:  # user code runs here and may raise anything, SystemExit too
        failure = failure_of(error)
        if failure.traceback:
            traceback.print_exc()
        return BuildReply(failure=failure)


def check_bound(target: object, import_path: str) -> None:
    """Refuse builder functions: a document says which arguments they get, and nobody has said it here.

    Raises:
        TargetError: it is a function. Everything else that is no application is explained by `build`.
    """
    is_function = callable(target) and not isinstance(target, (Application, type))
    if is_function and type(target).__name__ == "function":
        raise TargetError(
            f"Expected {import_path!r} to be an Application but got a function. Builder functions get their "
            "arguments from `args` in a config file: write the file by hand, or name an application made by .bind()."
        )
