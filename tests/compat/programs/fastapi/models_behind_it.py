"""FastAPI at the door, a model behind it: the ingress parses and answers, the model has its own replicas."""

import os

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI(title="Iris")


class Flower(BaseModel):
    petal_length_cm: float
    petal_width_cm: float


class Verdict(BaseModel):
    species: str
    surface_cm2: float


@serve.deployment(num_replicas=2)
class DecisionTree:
    def predict(self, length: float, width: float) -> str:
        if length < 2.5:
            return "setosa"
        return "versicolor" if width < 1.75 else "virginica"


@serve.deployment
@serve.ingress(app)
class Botanist:
    def __init__(self, tree: DeploymentHandle) -> None:
        self.tree = tree

    @app.post("/classify")
    async def classify(self, flower: Flower) -> Verdict:
        length, width = flower.petal_length_cm, flower.petal_width_cm
        species = await self.tree.predict.remote(length, width)
        return Verdict(species=species, surface_cm2=round(length * width, 2))


serve.run(Botanist.bind(DecisionTree.bind()))

answer = httpx.post(f"{URL}/classify", json={"petal_length_cm": 5.1, "petal_width_cm": 1.9})
assert answer.json() == {"species": "virginica", "surface_cm2": 9.69}
