"""mosec: a Rust front that hands requests to Python workers over Unix sockets. The closest in shape to us.

Its workers take a body by POST and answer JSON, so it is asked that way; the answers are the same words.
"""

from __future__ import annotations

import signal

from benchmarks.asks import Ask
from benchmarks.contenders.base import App, Command, Contender, Place, Role


class Mosec(Contender):
    name = "mosec"
    title = "mosec"
    environment = "mosec"
    packages = ("mosec",)
    shown_versions = ("mosec",)
    module = "mosec"
    apps = ("noop", "batch")
    stop_signal = signal.SIGTERM  # it does not end on an interrupt

    def ask(self, name: str) -> Ask:
        word, path = ("hello", "/inference") if name == "noop" else ("done", super().ask(name).path)
        return Ask(answer=f'"{word}"', method="POST", path=path, body="{}")

    def commands(self, app: App, place: Place) -> list[Command]:
        options = ["--address", "127.0.0.1", "--port", str(place.port), "--log-level", "error"]
        options += ["--path", str(place.directory / "mosec"), "--timeout", "30000"]
        return [Command([str(self.python), "-m", f"benchmarks.apps.mosec_{app}", *options])]

    def role(self, name: str, command: str) -> Role:
        return "front" if name == "mosec" else "replica"
