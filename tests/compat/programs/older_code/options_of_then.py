"""The options of 2.7: `max_concurrent_queries`, and a `route_prefix` and a version in the decorator."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment(
    version="v3",
    route_prefix="/scores",
    max_concurrent_queries=20,
    ray_actor_options={"num_cpus": 0.2, "num_gpus": 0},
)
class Scores:
    def __init__(self, threshold: int):
        self.threshold = threshold

    async def __call__(self, request: Request):
        return int(request.query_params["points"]) >= self.threshold


assert Scores.max_concurrent_queries == 20
assert Scores.route_prefix == "/scores"

serve.run(Scores.bind(50))

assert httpx.get(f"{URL}/scores", params={"points": "72"}).json() is True
assert httpx.get(f"{URL}/scores", params={"points": "31"}).json() is False
