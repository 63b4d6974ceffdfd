"""Ray Serve in two modes: as it is shipped, and at its best for requests per second.

At its best means HAProxy in front (its binary comes with `ray[serve]`) and Ray's own throughput switches.
Quoting only the first would flatter us. In both, replicas ask for no CPUs, so that Ray's bookkeeping of
two cores does not stop it from starting; logging to stderr is off, as nobody measures a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from benchmarks.contenders.base import ROOT, App, Command, Contender, Place

CONFIG = """\
proxy_location: EveryNode
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: default
    route_prefix: /
    import_path: benchmarks.apps.serve:{app}
"""


class RayServe(Contender):
    name = "ray"
    title = "Ray Serve, as shipped"
    environment = "ray"
    packages = ("ray[serve]",)
    shown_versions = ("ray", "uvicorn", "fastapi")
    apps = ("noop", "fastapi")
    switches: ClassVar[Mapping[str, str]] = {}

    def commands(self, app: App, place: Place) -> list[Command]:
        config = place.directory / "serve.yaml"
        config.write_text(CONFIG.format(port=place.port, app=app))
        argv = [self.script("serve"), "run", "--app-dir", str(ROOT), str(config)]
        return [Command(argv, self._env(place))]

    def handle_driver(self, place: Place) -> Command:
        argv = [str(self.python), "-m", "benchmarks.drivers.handle_calls"]
        # The throughput mode would forbid handles in a program without an event loop.
        return Command(argv, {**self._env(place), "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"})

    def _env(self, place: Place) -> dict[str, str]:
        return {
            "BENCHMARK_SERVE": "ray",
            "RAY_AUTH_MODE": "token",  # what `ray start` asks for; harmless elsewhere
            "RAY_DEDUP_LOGS": "0",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_TMPDIR": str(place.directory),
            "RAY_USAGE_STATS_ENABLED": "0",
            **self.switches,
        }


class RayServeAtItsBest(RayServe):
    name = "ray-best"
    title = "Ray Serve, HAProxy and throughput mode"
    switches = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
