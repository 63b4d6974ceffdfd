"""Applications whose number of replicas follows the load."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from starlette.requests import Request

import serve_lite as serve
from serve_lite.config import AutoscalingContext

HERE = Path(__file__).parent


@serve.deployment
class Held:
    """Answers when the gate file is there."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        with (self.folder / "made").open("a") as file:
            file.write(f"{os.getpid()}\n")

    async def __call__(self, request: Request) -> str:
        await self.hold()
        return str(os.getpid())

    async def hold(self) -> int:
        (self.folder / "entered").touch()
        while not (self.folder / "gate").exists():
            await asyncio.sleep(0.01)
        return os.getpid()

    async def stream(self) -> Any:
        yield "begun"
        await self.hold()
        yield "done"

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {"temperature": 21.5}


@serve.deployment
class Front:
    """Holds a handle to the scaled deployment, so that a replica reports the load."""

    def __init__(self, held: Any) -> None:
        self.held = held

    async def __call__(self, request: Request) -> str:
        return str(await self.held.hold.remote())


@serve.deployment
class Broken:
    """A version of `Held` that does not start."""

    def __init__(self) -> None:
        raise ValueError("there is no model here")


#: Looks back for half a second and decides at once, so that tests need not wait.
QUICK = {
    "min_replicas": 1,
    "max_replicas": 3,
    "look_back_period_s": 0.5,
    "upscale_delay_s": 0,
    "downscale_delay_s": 0.2,
}


def held(args: dict[str, Any]) -> serve.Application:
    options = {**QUICK, **args.get("scaling", {})}
    return Held.options(autoscaling_config=options).bind(args["folder"])


def broken(args: dict[str, Any]) -> serve.Application:
    return Broken.options(name="Held", autoscaling_config={**QUICK, "max_replicas": 2}).bind()


def behind(args: dict[str, Any]) -> serve.Application:
    return Front.bind(held(args))


def by_file(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Wants as many replicas as a file says, and writes down what it was told."""
    wanted = (HERE if context.config is None else Path(os.environ["SCALED_FOLDER"])) / "wanted"
    asked = context.policy_state.get("asked", 0) + 1
    metrics = {name: sorted(values.values()) for name, values in context.aggregated_metrics.items()}
    (wanted.parent / "told").write_text(f"{os.getpid()} {context.deployment_name} {metrics} {asked > 1}")
    text = wanted.read_text() if wanted.exists() else "1"
    if text == "bad":
        raise ValueError("the file is bad")
    return float(text), {"asked": asked}


def pair(args: dict[str, Any]) -> serve.Application:
    """Two deployments that scale by themselves."""
    options = {**QUICK, **args.get("scaling", {})}
    return Front.options(autoscaling_config=options).bind(held(args))


class ByFile:
    """A policy for all deployments of an application: wants what a file says, as JSON by name."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, contexts: dict[Any, AutoscalingContext]) -> Any:
        asked = {id: context.policy_state.get("asked", 0) + 1 for id, context in contexts.items()}
        names = " ".join(sorted(id.name for id in contexts))
        (self.folder / "told").write_text(f"{os.getpid()} {min(asked.values()) > 1} {names}")
        wanted = json.loads((self.folder / "wanted").read_text())
        return (
            {id: wanted[id.name] for id in contexts if id.name in wanted},
            {id: {"asked": asked[id]} for id in contexts},
        )
