"""Without a class: an app and its sub-deployments, which it finds among the arguments of `bind`."""

import os

import httpx
from fastapi import Depends, FastAPI

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


def models() -> dict[str, DeploymentHandle]:
    return serve.get_replica_context().servable_object.kwargs


@app.get("/price/{fruit}")
async def price(fruit: str, kilos: float, handles: dict = Depends(models)) -> float:
    return await handles["prices"].remote(fruit, kilos)


@serve.deployment
class Prices:
    def __call__(self, fruit: str, kilos: float) -> float:
        return {"apple": 2.5, "plum": 4.0}[fruit] * kilos


Market = serve.deployment(serve.ingress(app)())

serve.run(Market.bind(prices=Prices.bind()))
assert httpx.get(f"{URL}/price/plum", params={"kilos": 1.5}).json() == 6.0
