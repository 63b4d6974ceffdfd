"""`serve.run(app, host=..., port=...)` chose the address when no instance was up yet."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

PORT = int(os.environ.get("SERVE_LITE_HTTP_PORT", 8000))


@serve.deployment
def double(request: Request):
    return 2 * int(request.query_params["number"])


handle = serve.run(double.bind(), host="127.0.0.1", port=PORT, name="numbers", route_prefix="/double")

assert httpx.get(f"http://127.0.0.1:{PORT}/double?number=21").json() == 42
