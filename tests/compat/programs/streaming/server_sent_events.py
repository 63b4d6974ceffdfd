"""Server-sent events from FastAPI: one line of JSON for each step of a long job."""

import json
import os

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Training:
    @app.get("/train")
    async def train(self, epochs: int) -> StreamingResponse:
        return StreamingResponse(self.events(epochs), media_type="text/event-stream")

    async def events(self, epochs: int):
        loss = 1.0
        for epoch in range(1, epochs + 1):
            loss /= 2
            yield f"data: {json.dumps({'epoch': epoch, 'loss': loss})}\n\n"
        yield "event: done\ndata: {}\n\n"


serve.run(Training.bind())

with httpx.stream("GET", f"{URL}/train", params={"epochs": 3}) as answer:
    lines = [line for line in answer.iter_lines() if line]

assert lines[-2:] == ["event: done", "data: {}"]
assert [json.loads(line.removeprefix("data: "))["loss"] for line in lines[:-2]] == [0.5, 0.25, 0.125]
