"""Ray Serve in two modes: as it is shipped, and at its best for requests per second.

At its best means HAProxy in front (its binary comes with `ray[serve]`) and Ray's own throughput switches.
Quoting only the first would flatter us. In both, replicas ask for no CPUs, so that Ray's bookkeeping of
two cores does not stop it from starting; logging to stderr is off, as nobody measures a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from benchmarks.contenders.base import ROOT, App, Command, Place, Role
from benchmarks.contenders.deployments import Deployments


class RayServe(Deployments):
    name = "ray"
    title = "Ray Serve, as shipped"
    environment = "ray"
    packages = ("ray[serve]", "numpy")
    shown_versions = ("ray", "uvicorn", "fastapi")
    module = "ray.serve"
    flavour = "ray"
    victims: ClassVar[Mapping[str, str] | None] = {
        "proxy": "ray::ProxyActor",
        "replica": "ray::ServeReplica:default:Noop",
    }
    switches: ClassVar[Mapping[str, str]] = {}

    def commands(self, app: App, place: Place) -> list[Command]:
        argv = [self.script("serve"), "run", "--app-dir", str(ROOT), self.write_config(app, place)]
        return [Command(argv, self.environment_of(place))]

    def driver(self, module: str, place: Place, *arguments: str) -> Command:
        command = super().driver(module, place, *arguments)
        # The throughput mode would forbid handles in a program without an event loop.
        return Command(command.argv, {**command.env, "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"})

    def role(self, name: str, command: str) -> Role:
        if command.startswith("ray::ProxyActor") or name == "haproxy":
            return "front"
        return "replica" if command.startswith("ray::ServeReplica") else "rest"

    def environment_of(self, place: Place) -> dict[str, str]:
        return {
            **super().environment_of(place),
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
    victims = {"proxy": "haproxy", "replica": "ray::ServeReplica:default:Noop"}
