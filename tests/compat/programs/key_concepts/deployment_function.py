"""A function can be a deployment too, for what needs no state."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
def slugify(request: Request) -> str:
    title = request.query_params["title"]
    return "-".join(title.lower().split())


@serve.deployment
def motto() -> str:
    return "Small is beautiful"


serve.run(slugify.bind(), name="slugs", route_prefix="/slug")
serve.run(motto.bind(), name="motto", route_prefix="/motto")

assert httpx.get(f"{URL}/slug", params={"title": "Ten Days in May"}).text == "ten-days-in-may"
assert httpx.get(f"{URL}/motto").text == "Small is beautiful"
