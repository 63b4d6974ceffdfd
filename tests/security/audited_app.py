"""An application that takes whatever comes, as bytes, over HTTP, WebSocket and gRPC; and values through handles."""

from __future__ import annotations

from typing import Any

import starlette.requests
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from serve_lite import deployment, ingress


class Courier:
    """A value whose class has to be looked up by whoever unpickles it."""


@deployment
class Audited:
    async def __call__(self, request: starlette.requests.Request) -> bytes:
        if request.url.path == "/boom":
            raise ValueError("as it was asked")
        return b"%d" % len(await request.body())

    def take(self, value: Any) -> str:
        return type(value).__name__

    def Say(self, request: Any) -> Any:
        return request


app = Audited.bind()


def add_to_server(servicer: Any, server: Any) -> None:
    """Offer `Say`, which takes and returns bytes in a message."""
    import grpc
    from google.protobuf.wrappers_pb2 import BytesValue

    say = grpc.unary_unary_rpc_method_handler(
        servicer.Say,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    handlers = {"Say": say}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("audit.Audit", handlers),))


async def send_back(socket: WebSocket) -> None:
    """Send one message back."""
    await socket.accept()
    await socket.send_bytes(await socket.receive_bytes())
    await socket.close()


@deployment
@ingress(Starlette(routes=[WebSocketRoute("/socket", send_back)]))
class AuditedSocket:
    """Takes WebSockets."""


socket_app = AuditedSocket.bind()
