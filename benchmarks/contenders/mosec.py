"""mosec: a Rust front that hands requests to Python workers over Unix sockets. The closest in shape to us.

Its workers take a body by POST and answer JSON, so it is asked that way; the answer is the same word.
"""

from __future__ import annotations

import signal

from benchmarks.contenders.base import App, Ask, Command, Contender, Place


class Mosec(Contender):
    name = "mosec"
    title = "mosec"
    environment = "mosec"
    packages = ("mosec",)
    shown_versions = ("mosec",)
    stop_signal = signal.SIGTERM  # it does not end on an interrupt

    def ask(self, app: App) -> Ask:
        return Ask(answer='"hello"', method="POST", path="/inference", body="{}")

    def commands(self, app: App, place: Place) -> list[Command]:
        options = ["--address", "127.0.0.1", "--port", str(place.port), "--log-level", "error"]
        options += ["--path", str(place.directory / "mosec"), "--timeout", "30000"]
        return [Command([str(self.python), "-m", "benchmarks.apps.mosec_noop", *options])]
