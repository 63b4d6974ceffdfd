"""A gRPC service that answers the string it is sent, and its application.

The messages are protobuf's own wrappers, so nothing has to be generated; what protoc would write is below by hand.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

SERVICE = "benchmarks.Echo"
METHOD = f"/{SERVICE}/Say"


def add_EchoServicer_to_server(servicer: Any, server: Any) -> None:  # noqa: N802  (the name that protoc gives)
    """Register the service's one method, as generated code does."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Say,
        request_deserializer=StringValue.FromString,
        response_serializer=StringValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Say": handler}),))


def __getattr__(name: str) -> Any:
    """Build the application only where it is served: the proxy of Ray Serve imports this module as well."""
    if name != "app":
        raise AttributeError(name)
    from benchmarks.apps.flavour import OPTIONS, serve

    @serve.deployment(**OPTIONS)
    class Echo:
        async def __call__(self, request: Any) -> str:
            return "hello"

        async def Say(self, request: Any) -> Any:  # noqa: N802
            return StringValue(value=request.value)

    return Echo.bind()
