"""Flask, a WSGI framework, through a2wsgi."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

from a2wsgi import WSGIMiddleware
from flask import Blueprint, Flask, Response, jsonify, make_response, redirect, request, send_file, url_for

import serve_lite as serve
from tests.frameworks import kitchen
from tests.frameworks.prices import Prices

flask_app = Flask(__name__)
sub = Blueprint("sub", __name__, url_prefix="/sub")


@flask_app.after_request
def middleware(response: Response) -> Response:
    if request.headers.get("origin") == kitchen.SITE:
        response.headers["access-control-allow-origin"] = kitchen.SITE
    if request.path == "/large" and "gzip" in request.headers.get("accept-encoding", ""):
        response.set_data(gzip.compress(response.get_data()))
        response.headers["content-encoding"] = "gzip"
    return response


@flask_app.get("/json")
def get_json() -> dict[str, Any]:
    return {"query": request.args.to_dict()}


@flask_app.post("/json")
def post_json() -> tuple[dict[str, Any], int]:
    return request.get_json(), 201


@flask_app.post("/form")
def form() -> dict[str, Any]:
    return {"name": request.form["name"], "tags": request.form.getlist("tag")}


@flask_app.post("/upload")
def upload() -> dict[str, Any]:
    file = request.files["file"]
    data = file.read()
    return {"name": file.filename, "size": len(data), "end": data[-3:].decode()}


@flask_app.get("/cookies")
def cookies() -> Response:
    answer = make_response(jsonify(request.cookies.to_dict()))
    answer.set_cookie("visit", "first", path="/")
    answer.set_cookie("taste", "salty", path="/")
    return answer


@flask_app.get("/redirect")
def go() -> Any:
    return redirect(url_for("get_json"))


@flask_app.get("/fail")
def fail() -> str:
    raise RuntimeError(kitchen.SECRET)


@flask_app.get("/events")
def events() -> Response:
    def lines() -> Iterator[str]:
        yield "data: one\n\n"
        kitchen.wait_for_gate("events")
        yield "data: two\n\n"

    return Response(lines(), mimetype="text/event-stream")


@flask_app.get("/file")
def file() -> Response:
    return send_file(kitchen.served_file(), download_name="file.bin", conditional=True)


@flask_app.get("/where")
def where() -> dict[str, Any]:
    return {
        "client": request.remote_addr,
        "scheme": request.scheme,
        "path": request.root_path + request.path,
        "url": url_for("get_json", _external=True),
    }


@flask_app.get("/price/<dish>")
def price(dish: str) -> dict[str, Any]:
    prices = serve.get_replica_context().servable_object.args[0]
    answer: dict[str, Any] = prices.price_of.remote(dish).result(timeout_s=30)
    return answer


@flask_app.get("/large")
def large() -> Response:
    return Response(kitchen.LARGE, mimetype="text/plain")


@sub.get("/hello/<name>")
def mounted(name: str) -> dict[str, str]:
    return {"hello": name}


flask_app.register_blueprint(sub)

app = WSGIMiddleware(flask_app)
served = serve.deployment(serve.ingress(app)()).bind(Prices.bind())
