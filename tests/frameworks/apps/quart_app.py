"""Quart."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from typing import Any

from quart import Blueprint, Quart, Response, redirect, request, send_file, url_for, websocket

import serve_lite as serve
from tests.frameworks import kitchen
from tests.frameworks.prices import Prices

app = Quart(__name__)
sub = Blueprint("sub", __name__, url_prefix="/sub")


@app.while_serving
async def lifespan() -> AsyncIterator[None]:
    kitchen.note("started")
    app.config["MENU"] = "soup"
    yield
    kitchen.note("stopped")


@app.after_request
async def middleware(response: Response) -> Response:
    if request.headers.get("origin") == kitchen.SITE:
        response.headers["access-control-allow-origin"] = kitchen.SITE
    if request.path == "/large" and "gzip" in request.headers.get("accept-encoding", ""):
        response.set_data(gzip.compress(await response.get_data(as_text=False)))
        response.headers["content-encoding"] = "gzip"
    return response


@app.get("/state")
async def state() -> dict[str, str]:
    return {"menu": app.config["MENU"]}


@app.get("/json")
def get_json() -> dict[str, Any]:  # in a thread
    return {"query": request.args.to_dict()}


@app.post("/json")
async def post_json() -> tuple[dict[str, Any], int]:
    return await request.get_json(), 201


@app.post("/form")
async def form() -> dict[str, Any]:
    fields = await request.form
    return {"name": fields["name"], "tags": fields.getlist("tag")}


@app.post("/upload")
async def upload() -> dict[str, Any]:
    file = (await request.files)["file"]
    data = file.read()
    return {"name": file.filename, "size": len(data), "end": data[-3:].decode()}


@app.get("/cookies")
async def cookies() -> Response:
    answer = await app.make_response(dict(request.cookies))
    answer.set_cookie("visit", "first", path="/")
    answer.set_cookie("taste", "salty", path="/")
    return answer


@app.get("/redirect")
async def go() -> Any:
    return redirect(url_for("get_json"))


@app.get("/fail")
async def fail() -> str:
    raise RuntimeError(kitchen.SECRET)


@app.get("/events")
async def events() -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await kitchen.gate("events")
        yield "data: two\n\n"

    answer = await app.make_response((lines(), {"content-type": "text/event-stream"}))
    answer.timeout = None
    return answer


@app.get("/file")
async def file() -> Response:
    return await send_file(
        kitchen.served_file(), as_attachment=True, attachment_filename="file.bin", conditional=True
    )


@app.get("/background")
async def background() -> str:
    async def later() -> None:
        await kitchen.gate("background")
        kitchen.note("washed up")

    app.add_background_task(later)
    return "served"


@app.get("/where")
async def where() -> dict[str, Any]:
    return {
        "client": request.remote_addr,
        "scheme": request.scheme,
        "path": request.root_path + request.path,
        "url": url_for("get_json", _external=True),
    }


@app.get("/price/<dish>")
async def price(dish: str) -> dict[str, Any]:
    prices = serve.get_replica_context().servable_object.args[0]
    answer: dict[str, Any] = await prices.price_of.remote(dish)
    return answer


@app.get("/large")
async def large() -> Response:
    return Response(kitchen.LARGE, mimetype="text/plain")


@sub.get("/hello/<name>")
async def mounted(name: str) -> dict[str, str]:
    return {"hello": name}


app.register_blueprint(sub)


@app.websocket("/talk")
async def talk() -> None:
    await websocket.accept(subprotocol="chat" if "chat" in websocket.requested_subprotocols else None)
    while True:
        message = await websocket.receive()
        if isinstance(message, bytes):
            await websocket.send(message[::-1])
        elif message == "bye":
            await websocket.close(4001, "said bye")
            return
        else:
            await websocket.send(message.upper())


served = serve.deployment(serve.ingress(app)()).bind(Prices.bind())
