"""An application whose replicas tell what they were given of the machine."""

from __future__ import annotations

import os
from typing import Any

from starlette.requests import Request

import serve_lite as serve


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
        }


def app(args: dict[str, Any]) -> serve.Application:
    return Allotted.options(
        num_replicas=int(args.get("replicas", 1)), ray_actor_options=args.get("needs", {})
    ).bind()
