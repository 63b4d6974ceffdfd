"""Middleware of the FastAPI app runs in the replica, around every request."""

import os

import httpx
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"

app = FastAPI()
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(CORSMiddleware, allow_origins=["https://maps.example"], allow_methods=["GET"])


@app.middleware("http")
async def count_words(request: Request, call_next):
    response = await call_next(request)
    response.headers["x-path-words"] = str(len(request.url.path.split("/")) - 1)
    return response


@serve.deployment
@serve.ingress(app)
class Maps:
    @app.get("/tiles/{x}/{y}")
    async def tile(self, x: int, y: int) -> str:
        return f"{x},{y};" * 1000


serve.run(Maps.bind())

answer = httpx.get(f"{URL}/tiles/3/4", headers={"origin": "https://maps.example"})
assert answer.json() == "3,4;" * 1000
assert answer.headers["x-path-words"] == "3"
assert answer.headers["content-encoding"] == "gzip"
assert answer.headers["access-control-allow-origin"] == "https://maps.example"
