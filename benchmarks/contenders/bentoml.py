"""BentoML: a service whose methods are HTTP routes, on uvicorn.

Its methods are called by POST with a JSON object of their arguments, so it is asked that way.
"""

from __future__ import annotations

from benchmarks.asks import Ask
from benchmarks.contenders.base import App, Command, Contender, Place


class BentoML(Contender):
    name = "bentoml"
    title = "BentoML"
    environment = "bentoml"
    packages = ("bentoml",)
    shown_versions = ("bentoml", "uvicorn", "starlette")
    module = "bentoml"
    apps = ("noop", "batch")

    def ask(self, name: str) -> Ask:
        if name == "noop":
            return Ask(answer="hello", method="POST", path="/hello", body="{}")
        path = super().ask(name).path
        body = '{"words": ["x"]}' if name == "batched" else "{}"
        return Ask(answer='["done"]' if name == "batched" else "done", method="POST", path=path, body=body)

    def commands(self, app: App, place: Place) -> list[Command]:
        service = {"noop": "Hello", "batch": "Model"}[app]
        argv = [
            self.script("bentoml"),
            "serve",
            f"benchmarks.apps.bento:{service}",
            "--port",
            str(place.port),
        ]
        env = {
            "BENTOML_HOME": str(place.directory / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        return [Command([*argv, "--host", "127.0.0.1"], env)]
