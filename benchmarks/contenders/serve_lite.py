"""serve-lite from this checkout, in the environment that runs the harness."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contenders.base import ROOT, App, Command, Place, Role
from benchmarks.contenders.deployments import Deployments


class ServeLite(Deployments):
    name = "serve-lite"
    title = "serve-lite"
    environment = ""
    shown_versions = ("serve-lite", "uvloop", "httptools", "fastapi")
    module = "serve_lite"
    flavour = "serve_lite"
    victims = {"proxy": "serve-lite: daemon", "replica": "serve-lite: replica default/Noop"}

    @property
    def python(self) -> Path:
        return Path(sys.executable)

    def setup(self) -> None:
        """Nothing to do: the Makefile has installed the checkout already."""

    def commands(self, app: App, place: Place) -> list[Command]:
        argv = [
            str(self.python),
            "-m",
            "serve_lite_cli.main",
            "run",
            "--admin-port",
            "0",
            "--app-dir",
            str(ROOT),
        ]
        return [Command([*argv, self.write_config(app, place)], self.environment_of(place))]

    def role(self, name: str, command: str) -> Role:
        if command.startswith("serve-lite: daemon"):
            return "front"
        return "replica" if command.startswith("serve-lite: replica") else "rest"

    def environment_of(self, place: Place) -> dict[str, str]:
        return {**super().environment_of(place), "SERVE_LITE_HOME": str(place.directory / "home")}
