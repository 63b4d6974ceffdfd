"""An ASGI app is only a function of scope, receive and send; a plain one works as well as a framework's."""

import os

import httpx

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


async def echo(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-type", b"application/octet-stream"), (b"x-method", scope["method"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for byte in body[::-1]:
        await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
    await send({"type": "http.response.body"})


@serve.deployment
@serve.ingress(echo)
class Mirror:
    pass


serve.run(Mirror.bind())

answer = httpx.patch(URL, content=b"stressed")
assert answer.content == b"desserts"
assert answer.headers["x-method"] == "PATCH"
