"""What a servicer function says of its gRPC methods: names, kinds, and how their messages are read.

A servicer function is an `add_XServicer_to_server` that grpcio-tools wrote; it is called with stand-ins that note
what it would register. A service class that grpclib's plugin wrote (it has `__mapping__`) will do as well.

Used in a child of the daemon, which answers with data (`main`), and in a replica that gets its first gRPC call.
"""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from serve_lite.exceptions import ServeLiteError
from serve_lite.replica import importing
from serve_lite.wire.spawning import (
    DescriptorFile,
    GrpcMethod,
    GrpcServices,
    ServicersReply,
    ServicersRequest,
)


class ServicerError(ServeLiteError):
    """An import path leads to nothing that describes a gRPC service."""


class Described(NamedTuple):
    """One method, and how to read its requests."""

    client_streaming: bool
    server_streaming: bool
    decode: Callable[[bytes], Any]


def main(sock: socket.socket) -> None:
    """Read one request, import what it names, write one reply."""
    importing.answer(sock, ServicersRequest, _reply_to)


def read_servicer(path: str) -> dict[str, Described]:
    """Import a servicer function and return its methods by full name.

    Raises:
        ServicerError: it is none, or the package it needs is missing.
        Exception: whatever the import raises.
    """
    try:
        target = importing.import_target(path)
        found = _methods_of(target, path)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in ("grpc", "google"):
            raise ServicerError(
                f"The servicer function {path!r} needs the packages grpcio and protobuf, and {error.name!r} is "
                "missing. Install them: `pip install 'serve-lite[grpc]'`."
            ) from error
        raise
    if not found:
        raise ServicerError(f"{path!r} registers no gRPC methods; give an `add_..._to_server` function.")
    return found


def _methods_of(target: Any, path: str) -> dict[str, Described]:
    if hasattr(target, "__mapping__"):  # grpclib's
        mapping = target.__mapping__(_AnyServicer())
        return {
            name: Described(
                handler.cardinality.client_streaming,
                handler.cardinality.server_streaming,
                handler.request_type.FromString,
            )
            for name, handler in mapping.items()
        }
    if isinstance(target, type) or not callable(target):
        raise ServicerError(
            f"{path!r} is {target!r}, no servicer function. Give the `add_..._to_server` function of a generated "
            "module."
        )
    server = _RecordingServer()
    try:
        target(_AnyServicer(), server)
    except TypeError as error:
        raise ServicerError(
            f"{path!r} cannot be called with a servicer and a server ({error}). Give the `add_..._to_server` function "
            "of a generated module."
        ) from error
    return server.methods


class _AnyServicer:
    """A servicer that has every method. None is ever called."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class _RecordingServer:
    """Takes what a servicer function registers with a grpcio server."""

    def __init__(self) -> None:
        self.methods: dict[str, Described] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:  # grpcio's generic handler keeps them by full name
            self._note(getattr(handler, "_method_handlers", {}))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._note({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def _note(self, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            self.methods[name] = Described(
                handler.request_streaming, handler.response_streaming, handler.request_deserializer or bytes
            )


def _reply_to(request: ServicersRequest) -> ServicersReply:
    try:
        methods = [
            GrpcMethod(
                name=name,
                servicer=path,
                client_streaming=described.client_streaming,
                server_streaming=described.server_streaming,
            )
            for path in request.paths
            for name, described in read_servicer(path).items()
        ]
        return ServicersReply(services=GrpcServices(methods=tuple(methods), files=_files_of(methods)))
    except BaseException as error:  # user code runs here and may raise anything, SystemExit too
        traceback.print_exc()
        return ServicersReply(failure=importing.failure_of(error))


def _files_of(methods: Iterable[GrpcMethod]) -> tuple[DescriptorFile, ...]:
    """Return the .proto files of services, and those that they import; nothing for what protobuf does not know."""
    if "google.protobuf.descriptor_pool" not in sys.modules:
        return ()
    pool = sys.modules["google.protobuf.descriptor_pool"].Default()
    found: dict[str, DescriptorFile] = {}
    for service in dict.fromkeys(method.name.split("/")[1] for method in methods):
        try:
            _add_file(pool.FindServiceByName(service).file, found)
        except KeyError:
            continue
    return tuple(found.values())


def _add_file(file: Any, found: dict[str, DescriptorFile]) -> None:
    if file.name in found:
        return
    symbols = [e.full_name for e in file.enum_types_by_name.values()]
    for service in file.services_by_name.values():
        symbols += [service.full_name, *(method.full_name for method in service.methods)]
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        symbols += [message.full_name, *(e.full_name for e in message.enum_types)]
        waiting += message.nested_types
    found[file.name] = DescriptorFile(name=file.name, content=file.serialized_pb, symbols=tuple(symbols))
    for imported in file.dependencies:
        _add_file(imported, found)
