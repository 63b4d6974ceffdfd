"""A class behind a FastAPI app: its methods are routes, with parameters, bodies and answers that FastAPI checks."""

import os

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


class Recipe(BaseModel):
    title: str
    minutes: int = Field(gt=0)


@serve.deployment
@serve.ingress(app)
class Cookbook:
    def __init__(self) -> None:
        self.recipes: dict[int, Recipe] = {}

    @app.post("/recipes", status_code=201)
    def add(self, recipe: Recipe) -> int:
        number = len(self.recipes) + 1
        self.recipes[number] = recipe
        return number

    @app.get("/recipes/{number}")
    async def read(self, number: int, verbose: bool = False) -> dict:
        if number not in self.recipes:
            raise HTTPException(404, f"no recipe {number}")
        recipe = self.recipes[number]
        return recipe.model_dump() if verbose else {"title": recipe.title}


serve.run(Cookbook.bind())

with httpx.Client(base_url=URL) as client:
    added = client.post("/recipes", json={"title": "Pancakes", "minutes": 20})
    assert (added.status_code, added.json()) == (201, 1)
    assert client.get("/recipes/1").json() == {"title": "Pancakes"}
    assert client.get("/recipes/1?verbose=true").json() == {"title": "Pancakes", "minutes": 20}
    assert client.get("/recipes/7").json() == {"detail": "no recipe 7"}
    assert client.post("/recipes", json={"title": "Soup", "minutes": 0}).status_code == 422
