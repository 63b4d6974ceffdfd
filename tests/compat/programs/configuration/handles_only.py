"""Without HTTP: `proxy_location="Disabled"` opens no port for applications, handles still work."""

import os

import httpx

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
def parity(number: int) -> str:
    return "odd" if number % 2 else "even"


serve.start(proxy_location="Disabled")
handle = serve.run(parity.bind())

assert handle.remote(7).result() == "odd"
try:
    httpx.get(URL)
except httpx.ConnectError as error:
    print(error)
else:
    raise AssertionError("nobody should listen there")
