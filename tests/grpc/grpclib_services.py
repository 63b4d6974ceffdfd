"""A service class as grpclib's plugin writes it."""

import abc
from typing import Any

import grpclib.const
import serve_lite_echo_pb2 as pb


class EchoBase(abc.ABC):
    @abc.abstractmethod
    async def Say(self, stream: Any) -> None: ...

    @abc.abstractmethod
    async def Converse(self, stream: Any) -> None: ...

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        kinds = grpclib.const.Cardinality
        return {
            "/serve_lite.echo.Echo/Say": grpclib.const.Handler(self.Say, kinds.UNARY_UNARY, pb.Said, pb.Said),
            "/serve_lite.echo.Echo/Converse": grpclib.const.Handler(
                self.Converse, kinds.STREAM_STREAM, pb.Said, pb.Said
            ),
        }
