"""`serve.start(detached=True, http_options=...)`, as older scripts begin."""

import os

import httpx

import serve_lite as serve
from serve_lite.config import HTTPOptions

PORT = int(os.environ.get("SERVE_LITE_HTTP_PORT", 8000))

serve.start(detached=True, http_options=HTTPOptions(host="127.0.0.1", port=PORT, keep_alive_timeout_s=5))


@serve.deployment(num_replicas=2, route_prefix="/ping")
def ping(_):
    return "pong"


serve.run(ping.bind(), _blocking=True)

assert httpx.get(f"http://127.0.0.1:{PORT}/ping").text == "pong"
serve.shutdown()
