"""The same service on a bare server: `python -m benchmarks.apps.grpc_bare grpclib|grpcio PORT`."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import uvloop
from google.protobuf.wrappers_pb2 import StringValue

from benchmarks.apps.grpc_echo import METHOD, add_EchoServicer_to_server


class Echo:
    async def Say(self, request: Any, context: Any) -> Any:  # noqa: N802
        return StringValue(value=request.value)


class GrpclibEcho:
    """The service as grpclib's plugin would write it."""

    async def say(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(StringValue(value=request.value))

    def __mapping__(self) -> dict[str, Any]:
        from grpclib.const import Cardinality, Handler

        return {METHOD: Handler(self.say, Cardinality.UNARY_UNARY, StringValue, StringValue)}


async def serve_grpclib(port: int, ended: asyncio.Event) -> None:
    from grpclib.server import Server

    server = Server([GrpclibEcho()])
    await server.start("127.0.0.1", port)
    await ended.wait()
    server.close()
    await server.wait_closed()


async def serve_grpcio(port: int, ended: asyncio.Event) -> None:
    import grpc

    server = grpc.aio.server()
    add_EchoServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await ended.wait()
    await server.stop(grace=1.0)


async def main() -> None:
    """Serve until the process is told to end."""
    kind, port = sys.argv[1], int(sys.argv[2])
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await {"grpclib": serve_grpclib, "grpcio": serve_grpcio}[kind](port, ended)


if __name__ == "__main__":
    uvloop.run(main())
