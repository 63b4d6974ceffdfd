"""The app's lifespan is run once in each replica: before its first request, and after its last one."""

import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI, Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
folder = tempfile.TemporaryDirectory()
diary = Path(folder.name, "diary.txt")


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.words = ["dawn", "noon", "dusk"]
    diary.write_text("opened\n")
    yield
    with diary.open("a") as file:
        file.write("closed\n")


app = FastAPI(lifespan=lifespan)


@serve.deployment
@serve.ingress(app)
class Day:
    @app.get("/{hour}")
    async def part(self, hour: int, request: Request) -> str:
        return request.app.state.words[hour // 9]


serve.run(Day.bind())
assert httpx.get(f"{URL}/10").json() == "noon"
assert diary.read_text() == "opened\n"

serve.delete("default")
assert diary.read_text() == "opened\nclosed\n"
folder.cleanup()
