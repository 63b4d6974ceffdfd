"""An application whose replicas tell what they were given of the machine."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from starlette.requests import Request

import serve_lite as serve


def bound() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


BOUND_WHEN_IMPORTED = bound()


@serve.deployment
class Allotted:
    async def __call__(self, request: Request) -> dict[str, Any]:
        context = serve.get_replica_context()
        with open("/proc/self/oom_score_adj") as score:
            killed_first = int(score.read())
        return {
            "pid": os.getpid(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "order": os.environ.get("CUDA_DEVICE_ORDER"),
            "gpu_ids": list(context.gpu_ids),
            "resources": context.required_resources,
            "killed_first": killed_first,
            "bound": bound(),
            "bound_when_imported": BOUND_WHEN_IMPORTED,
            "cpu_ids": list(context.cpu_ids),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }


def app(args: dict[str, Any]) -> serve.Application:
    return Allotted.options(
        num_replicas=int(args.get("replicas", 1)),
        ray_actor_options=args.get("needs", {}),
        cpu_affinity=args.get("affinity"),
    ).bind()


@serve.deployment
class Greedy:
    """Takes as many bytes as it is asked to, and keeps them."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    async def __call__(self, request: Request) -> int:
        if request.query_params.get(
            "child"
        ):  # its own session: it outlives who started it, if nobody ends it
            return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
        self._kept.append(bytearray(b"x") * int(request.query_params.get("take", 0)))
        return os.getpid()


def greedy(args: dict[str, Any]) -> serve.Application:
    return Greedy.options(name="Allotted", ray_actor_options={"memory": args["memory"]}).bind()
