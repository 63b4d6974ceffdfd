"""Falcon's ASGI side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import falcon
import falcon.asgi
import falcon.media

import serve_lite as serve
from tests.frameworks import kitchen


class Lifespan:
    async def process_startup(self, scope: Any, event: Any) -> None:
        kitchen.note("started")
        State.menu = "soup"

    async def process_shutdown(self, scope: Any, event: Any) -> None:
        kitchen.note("stopped")


class State:
    menu = ""

    async def on_get(self, req: Any, resp: Any) -> None:
        resp.media = {"menu": self.menu}


class Json:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.media = {"query": req.params}

    async def on_post(self, req: Any, resp: Any) -> None:
        resp.media = await req.get_media()
        resp.status = falcon.HTTP_201


class Form:
    async def on_post(self, req: Any, resp: Any) -> None:
        fields = await req.get_media()
        resp.media = {"name": fields["name"], "tags": fields["tag"]}


class Upload:
    async def on_post(self, req: Any, resp: Any) -> None:
        async for part in await req.get_media():
            size, end = 0, b""
            while chunk := await part.stream.read(65536):
                size, end = size + len(chunk), (end + chunk)[-3:]
            resp.media = {"name": part.filename, "size": size, "end": end.decode()}


class Cookies:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.media = req.cookies
        resp.set_cookie("visit", "first", path="/", secure=False)
        resp.set_cookie("taste", "salty", path="/", secure=False)


class Redirect:
    async def on_get(self, req: Any, resp: Any) -> None:
        raise falcon.HTTPFound(f"{req.root_path}/json")


class Fail:
    async def on_get(self, req: Any, resp: Any) -> None:
        raise RuntimeError(kitchen.SECRET)


class Events:
    async def on_get(self, req: Any, resp: Any) -> None:
        async def events() -> AsyncIterator[Any]:
            yield falcon.asgi.SSEvent(data=b"one")
            await kitchen.gate("events")
            yield falcon.asgi.SSEvent(data=b"two")

        resp.sse = events()


class Background:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.text = "served"
        resp.schedule(self.later)

    async def later(self) -> None:
        await kitchen.gate("background")
        kitchen.note("washed up")


class Where:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.media = {
            "client": req.scope["client"][0],
            "scheme": req.scheme,
            "path": req.root_path + req.path,
            "url": req.prefix + "/json",
        }


class Large:
    async def on_get(self, req: Any, resp: Any) -> None:
        resp.text = kitchen.LARGE
        resp.content_type = "text/plain"


class Mounted:
    async def on_get(self, req: Any, resp: Any, name: str) -> None:
        resp.media = {"hello": name}


class Talk:
    async def on_websocket(self, req: Any, ws: Any) -> None:
        await ws.accept(subprotocol="chat" if "chat" in ws.subprotocols else None)
        try:
            while True:
                message = await ws.receive_text()
                if message == "bye":
                    await ws.close(4001, "said bye")
                    return
                await ws.send_text(message.upper())
        except falcon.WebSocketDisconnected as left:
            kitchen.note(f"left with {left.code}")


app = falcon.asgi.App(
    middleware=[Lifespan(), falcon.CORSMiddleware(allow_origins=kitchen.SITE)],
)
app.add_route("/state", State())
app.add_route("/json", Json())
app.add_route("/form", Form())
app.add_route("/upload", Upload())
app.add_route("/cookies", Cookies())
app.add_route("/redirect", Redirect())
app.add_route("/fail", Fail())
app.add_route("/events", Events())
app.add_route("/background", Background())
app.add_route("/where", Where())
app.add_route("/large", Large())
app.add_route("/sub/hello/{name}", Mounted())
app.add_route("/talk", Talk())

served = serve.deployment(serve.ingress(app)()).bind()
