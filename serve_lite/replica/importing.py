"""What an importer child does: import an application, build its deployments, answer with data.

The answer goes over its own socket, so whatever user code prints stays in the log. The daemon's side is
`controller/importer.py`; what a deployment becomes is told in `graph.py`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import site
import socket
import sys
import sysconfig
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from serve_lite.deployment import Application, Deployment
from serve_lite.exceptions import ServeLiteError
from serve_lite.graph import build_deployments, call_builder, with_runtime_envs
from serve_lite.state.goal import BuildRequest, BuildResult
from serve_lite.wire.spawning import LENGTH_BYTES, BuildFailure, BuildReply

R = TypeVar("R")

#: Our own frames and those of the import system say nothing about the user's mistake.
_NOT_THE_USERS = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    os.path.dirname(importlib.__file__) + os.sep,
    "<frozen ",
)


class TargetError(ServeLiteError):
    """The import path leads to nothing that can be deployed."""


def main(sock: socket.socket) -> None:
    """Read one request, build it, write one reply."""
    answer(sock, BuildRequest, _reply_to)


def answer(sock: socket.socket, request_type: type[R], reply_to: Callable[[R], msgspec.Struct]) -> None:
    """Read one request and write the reply to it."""
    with sock:
        sock.setblocking(True)
        size = int.from_bytes(_read_exactly(sock, LENGTH_BYTES), "big")
        request = msgspec.msgpack.decode(_read_exactly(sock, size), type=request_type)
        body = msgspec.msgpack.encode(reply_to(request))
        sock.sendall(len(body).to_bytes(LENGTH_BYTES, "big") + body)


def build(request: BuildRequest) -> BuildResult:
    """Import the target and return its deployments.

    Raises:
        TargetError: there is no such module or attribute, or it is no application.
        Exception: whatever the user's code raises.
    """
    given_path = set(sys.path)
    target = import_target(request.import_path)
    application = as_application(target, request)
    added_path = tuple(entry for entry in sys.path if entry not in given_path)
    specs = with_runtime_envs(build_deployments(application, request.app_name))
    if request.by_content:
        from serve_lite.replica.versions import with_content_versions  # of no use to other importers

        specs = with_content_versions(specs, request.import_path)
    return BuildResult(
        deployments=tuple(msgspec.structs.replace(spec, added_path=added_path) for spec in specs)
    )


def import_target(import_path: str) -> Any:
    """Return the object at `module:attribute` or `module.attribute`.

    Raises:
        TargetError: nothing is there.
    """
    if ":" in import_path:
        module_name, _, attributes = import_path.partition(":")
    else:
        module_name, _, attributes = import_path.rpartition(".")
    if not module_name or not attributes:
        raise TargetError(
            f"{import_path!r} is not an import path. Write `module:attribute`, for example `main:app`: the module "
            "is imported and the attribute in it is deployed."
        )
    found: Any = _import_module(module_name, import_path)
    for name in attributes.split("."):
        if not hasattr(found, name):
            raise TargetError(_no_attribute(found, name, module_name))
        found = getattr(found, name)
    return found


def as_application(target: Any, request: BuildRequest) -> Application:
    """Return the application that `target` is, or that it builds from the request's arguments.

    Raises:
        TargetError: it is neither an application nor a builder.
        TypeError: a builder returns something else.
        ValueError: the builder does not take such arguments.
    """
    path = request.import_path
    if isinstance(target, Application):
        if request.args:
            raise TargetError(
                f"{path!r} is an application that is already bound, so it takes no arguments, but got "
                f"{sorted(request.args)}. Point to a function that takes them and returns an application."
            )
        return target
    if isinstance(target, Deployment):
        raise TargetError(
            f"{path!r} is a deployment, not an application. Bind it: `app = {target.name}.bind()`, and deploy `app`."
        )
    if isinstance(target, type) or not callable(target):
        raise TargetError(
            f"{path!r} is {_described(target)}, not an application. Make a class or function one with "
            "`@serve.deployment` and `.bind()`, and deploy what `.bind()` returns."
        )
    return call_builder(target, request.args)


def failure_of(error: BaseException) -> BuildFailure:
    """Return an error as its user should read it: frames of our own and of the import system left out."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    where = _where(error, frames)
    text = str(error) or type(error).__name__
    if isinstance(error, SystemExit):
        text = f"the code called sys.exit({error.code!r}) while it was imported"
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    lines += traceback.format_exception_only(error)
    name = "" if isinstance(error, TargetError) else type(error).__name__
    return BuildFailure(type_name=name, text=text, traceback="".join(lines) if where else "", where=where)


def _reply_to(request: BuildRequest) -> BuildReply:
    try:
        return BuildReply(result=build(request))
    except BaseException as error:  # user code runs here and may raise anything, SystemExit too
        traceback.print_exc()  # into the log, whole
        return BuildReply(failure=failure_of(error))


def _import_module(name: str, import_path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Ours to explain only if the target itself is missing, not something that it imports.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(_no_module(name, error.name, import_path)) from None
        raise


def _no_module(name: str, missing: str, import_path: str) -> str:
    looked = ", ".join(dict.fromkeys(os.path.abspath(p) for p in sys.path[:3]))
    hint = ""
    if import_path.endswith(".py") or name.endswith(".py"):
        hint = f" {name!r} looks like a file: name the module, without `.py`."
    else:
        near = difflib.get_close_matches(missing.rpartition(".")[2], _module_names(missing), n=2)
        if near:
            hint = " Did you mean " + " or ".join(repr(n) for n in near) + "?"
    inside = f" (there is no {missing!r})" if missing != name else ""
    return (
        f"There is no module {name!r}{inside}, looked for from {os.getcwd()!r} (sys.path begins with {looked}).{hint} "
        "Run from the folder it is in, or name that folder with --app-dir."
    )


def _module_names(missing: str) -> list[str]:
    """Return modules that lie in the folder where `missing` was looked for first."""
    parent = missing.rpartition(".")[0]
    folders = list(getattr(sys.modules.get(parent), "__path__", [])) if parent else sys.path[:1]
    names = []
    for folder in folders:
        try:
            names += [entry.removesuffix(".py") for entry in os.listdir(folder or ".")]
        except OSError:
            continue
    return names


def _no_attribute(owner: Any, name: str, module_name: str) -> str:
    where = f"module {module_name!r}" if isinstance(owner, ModuleType) else _described(owner)
    file = getattr(owner, "__file__", None)
    near = difflib.get_close_matches(name, dir(owner), n=2)
    applications = [n for n, value in vars(owner).items() if isinstance(value, Application)] if file else []
    if near:
        hint = " Did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif applications:
        hint = " Applications in it: " + ", ".join(repr(n) for n in applications) + "."
    else:
        hint = ""
    return f"There is no {name!r} in {where}{f' ({file})' if file else ''}.{hint}"


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    kind = type(value)
    article = "an" if kind.__qualname__[:1].lower() in "aeiou" else "a"
    return "None" if value is None else f"{article} {kind.__qualname__}"


def _where(error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    """Return `file:line` of the deepest frame that is the user's own; of the deepest one at all if none is."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own = [frame for frame in frames if not frame.filename.startswith(_library_folders())]
    deepest = (own or frames)[-1:]
    return f"{deepest[0].filename}:{deepest[0].lineno}" if deepest else ""


def _library_folders() -> tuple[str, ...]:
    folders = {*site.getsitepackages(), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return tuple(folder + os.sep for folder in folders)


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise SystemExit("the daemon went away")
        data += piece
    return bytes(data)
