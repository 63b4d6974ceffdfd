"""What is in this file? A FastAPI ingress in front of a real model, Google's magika, which runs in ONNX.

    serve run examples.file_types:app
    curl -F files=@LICENSE -F files=@Makefile http://127.0.0.1:8000/identify

Uploads that arrive together, in one request or in many, are one run of the model.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from fastapi import FastAPI, UploadFile
from pydantic import BaseModel

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

api = FastAPI(title="File types")


class FileType(BaseModel):
    """What the model says about one file."""

    filename: str = ""  #: as uploaded; the model does not see it
    label: str
    description: str
    mime_type: str
    group: str
    score: float  #: the model's confidence, 0 to 1


@serve.deployment(max_ongoing_requests=64)
class Classifier:
    """Holds the model. Only this deployment's replicas load it."""

    def __init__(self) -> None:
        from magika import Magika

        self._model = Magika()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def identify(self, contents: list[bytes]) -> list[FileType]:
        """Return the types of files, given what is in them; a call passes one and gets one."""
        return await asyncio.to_thread(self._identify_all, contents)

    def _identify_all(self, contents: list[bytes]) -> list[FileType]:
        # The model takes several inputs at once only as files; it reads their ends, not all of them.
        with tempfile.TemporaryDirectory() as directory:
            paths = [Path(directory, str(number)) for number in range(len(contents))]
            for path, content in zip(paths, contents, strict=True):
                path.write_bytes(content)
            results = self._model.identify_paths(paths)
        return [
            FileType(
                label=str(result.output.label),
                description=result.output.description,
                mime_type=result.output.mime_type,
                group=result.output.group,
                score=round(result.score, 4),
            )
            for result in results
        ]


@serve.deployment
@serve.ingress(api)
class FileTypes:
    """Takes uploads and asks the classifier about each."""

    def __init__(self, classifier: DeploymentHandle) -> None:
        self._classifier = classifier

    @api.post("/identify")
    async def identify(self, files: list[UploadFile]) -> list[FileType]:
        """Say what each of the uploaded files is."""
        contents = [await file.read() for file in files]
        types = await asyncio.gather(*(self._classifier.identify.remote(content) for content in contents))
        return [
            found.model_copy(update={"filename": file.filename})
            for file, found in zip(files, types, strict=True)
        ]


app = FileTypes.bind(Classifier.bind())
