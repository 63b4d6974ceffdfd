"""LitServe: FastAPI in front, workers behind queues of `multiprocessing`.

Its handlers take a body by POST, so it is asked that way.
"""

from __future__ import annotations

from benchmarks.asks import Ask
from benchmarks.contenders.base import App, Command, Contender, Place


class LitServe(Contender):
    name = "litserve"
    title = "LitServe"
    environment = "litserve"
    packages = ("litserve",)
    shown_versions = ("litserve", "uvicorn", "fastapi")
    module = "litserve"
    apps = ("noop", "batch")

    def ask(self, name: str) -> Ask:
        word, path = ("hello", "/predict") if name == "noop" else ("done", super().ask(name).path)
        return Ask(answer=f'"{word}"', method="POST", path=path, body="{}")

    def commands(self, app: App, place: Place) -> list[Command]:
        return [Command([str(self.python), "-m", f"benchmarks.apps.litserve_{app}", str(place.port)])]
