"""serve-lite from this checkout, in the environment that runs the harness."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contenders.base import ROOT, App, Command, Contender, Place

CONFIG = """\
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: default
    route_prefix: /
    import_path: benchmarks.apps.serve:{app}
"""


class ServeLite(Contender):
    name = "serve-lite"
    title = "serve-lite"
    environment = ""
    shown_versions = ("serve-lite", "uvloop", "httptools", "fastapi")
    apps = ("noop", "fastapi")

    @property
    def python(self) -> Path:
        return Path(sys.executable)

    def setup(self) -> None:
        """Nothing to do: the Makefile has installed the checkout already."""

    def commands(self, app: App, place: Place) -> list[Command]:
        config = place.directory / "serve.yaml"
        config.write_text(CONFIG.format(port=place.port, app=app))
        argv = [self.script("serve-lite"), "run", "--admin-port", "0", "--app-dir", str(ROOT), str(config)]
        return [Command(argv, self._env(place))]

    def handle_driver(self, place: Place) -> Command:
        return Command([str(self.python), "-m", "benchmarks.drivers.handle_calls"], self._env(place))

    def _env(self, place: Place) -> dict[str, str]:
        return {"BENCHMARK_SERVE": "serve_lite", "SERVE_LITE_HOME": str(place.directory / "home")}
