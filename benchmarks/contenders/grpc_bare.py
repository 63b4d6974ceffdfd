"""gRPC servers without anything behind them: what grpclib and grpcio's asyncio server can do by themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from benchmarks.contenders.base import App, Command, Contender, Place


class Grpclib(Contender):
    name = "grpclib"
    title = "bare grpclib"
    environment = ""
    shown_versions = ("grpclib", "grpcio")
    apps = ("grpc",)
    server: ClassVar[str] = "grpclib"

    @property
    def python(self) -> Path:
        return Path(sys.executable)

    def setup(self) -> None:
        """Nothing to do: both come with what the harness needs."""

    def commands(self, app: App, place: Place) -> list[Command]:
        module = "benchmarks.apps.grpc_bare"
        return [Command([str(self.python), "-m", module, self.server, str(place.grpc_port)])]


class Grpcio(Grpclib):
    name = "grpcio"
    title = "bare grpcio.aio"
    server = "grpcio"
