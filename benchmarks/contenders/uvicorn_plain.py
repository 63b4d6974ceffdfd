"""Plain uvicorn with httptools and uvloop: one process, no replicas, no routing. What a bare server gets."""

from __future__ import annotations

from benchmarks.contenders.base import App, Command, Contender, Place


class UvicornPlain(Contender):
    name = "uvicorn"
    title = "uvicorn"
    environment = "uvicorn"
    packages = ("uvicorn[standard]", "fastapi")
    shown_versions = ("uvicorn", "httptools", "uvloop", "fastapi", "starlette")
    apps = ("noop", "fastapi", "web")
    why_not = {"sync": "a plain ASGI application has no handlers that are not async"}

    def commands(self, app: App, place: Place) -> list[Command]:
        return [self.server(app, "--host", "127.0.0.1", "--port", str(place.port))]

    def server(self, app: App, *where: str) -> Command:
        """Return the uvicorn command that listens at `where`."""
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return Command([self.script("uvicorn"), f"benchmarks.apps.asgi:{app}", *where, *options])
