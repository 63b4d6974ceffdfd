"""A FastAPI ingress of 2.7 that gets one handle injected and finds another by name."""

import os

import httpx
from fastapi import FastAPI

import serve_lite as serve
from serve_lite.handle import DeploymentHandle, RayServeDeploymentHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_concurrent_queries=20)
class Price:
    def of(self, article: str) -> float:
        return {"pen": 1.5, "ink": 4.0}[article]


@serve.deployment(num_replicas=1, route_prefix="/shop")
@serve.ingress(app)
class Shop:
    def __init__(self, price: RayServeDeploymentHandle) -> None:
        self.injected: DeploymentHandle = price.options(use_new_handle_api=True)

    @app.get("/price/{article}")
    async def price(self, article: str) -> dict[str, float]:
        found = serve.get_deployment_handle("Price", "stationer")
        return {"injected": await self.injected.of.remote(article), "found": await found.of.remote(article)}


serve.run(Shop.bind(Price.bind()), name="stationer")
assert httpx.get(f"{URL}/shop/price/ink").json() == {"injected": 4.0, "found": 4.0}
