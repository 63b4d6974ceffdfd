"""`serve.start` brings an instance up, `serve.shutdown` takes everything down; both may be repeated."""

import os

import httpx

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
def hello() -> str:
    return "hello"


for _ in range(2):
    serve.start()
    serve.start()  # connects to the one that is up
    serve.run(hello.bind())
    assert httpx.get(URL).text == "hello"
    assert httpx.get(f"{URL}/-/healthz").text == "success"

    serve.shutdown()
    serve.shutdown()  # nothing left to do
    assert serve.status().applications == {}
    try:
        httpx.get(URL)
    except httpx.ConnectError:
        continue
    raise AssertionError("the port should be free again")
