"""What environments are made of in tests: wheels and zip files made by hand, and a web server that has them."""

from __future__ import annotations

import base64
import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler], None]


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """Make a package with one module that knows its version, and a program that prints it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n\n\ndef main():\n    print(version)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-version = {name}:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    return make_zip(folder / f"{name}-{version}-py3-none-any.whl", files)


def make_zip(path: Path, files: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


class Web:
    """A web server on this machine: what it has, and what it was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answers: dict[str, bytes | Answer] = {}
        self.asked: list[str] = []
        self.authorized: list[str] = []  #: "user:password" of each request that had them

    def url(self, path: str, user_info: str = "") -> str:
        return f"http://{user_info}127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    """Run a web server for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            if (authorization := self.headers.get("Authorization")) is not None:
                web.authorized.append(base64.b64decode(authorization.removeprefix("Basic ")).decode())
            answer = web.answers.get(self.path.partition("?")[0])
            if callable(answer):
                answer(self)
            elif answer is None:
                self.send_error(404, "Nothing here")
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who finds it too large leaves
                    self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        web = Web(server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()


def redirect_to(url: str) -> Answer:
    """Answer by sending the client elsewhere."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
