"""Routes of a base class belong to its subclasses, which fill in what differs."""

import os

import httpx
from fastapi import FastAPI

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


class Predictor:
    """What every model of ours answers."""

    def predict(self, value: float) -> float:
        raise NotImplementedError

    @app.get("/predict/{value}")
    def predict_route(self, value: float) -> dict[str, float]:
        return {"prediction": self.predict(value)}


@serve.deployment
@serve.ingress(app)
class Doubling(Predictor):
    def predict(self, value: float) -> float:
        return value * 2


handle = serve.run(Doubling.bind())

assert httpx.get(f"{URL}/predict/21").json() == {"prediction": 42.0}
assert handle.predict.remote(4).result() == 8  # methods can be called by handle as well
