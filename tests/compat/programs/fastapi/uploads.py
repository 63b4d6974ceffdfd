"""Uploaded files, as FastAPI gives them."""

import os

import httpx
from fastapi import FastAPI, Form, UploadFile

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Archive:
    def __init__(self) -> None:
        self.bytes_kept = 0

    @app.post("/keep")
    async def keep(self, folder: str = Form(), files: list[UploadFile] = ()) -> dict:
        sizes = {f"{folder}/{file.filename}": len(await file.read()) for file in files}
        self.bytes_kept += sum(sizes.values())
        return {"sizes": sizes, "total": self.bytes_kept}


serve.run(Archive.bind())

files = [("files", ("a.txt", b"alpha")), ("files", ("big.bin", bytes(3_000_000)))]
answer = httpx.post(f"{URL}/keep", data={"folder": "inbox"}, files=files)
assert answer.json() == {"sizes": {"inbox/a.txt": 5, "inbox/big.bin": 3_000_000}, "total": 3_000_005}
