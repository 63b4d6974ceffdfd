"""What is asked of the applications, and the only answers that count as right.

The same questions go to every contender that can answer them; one whose ways differ says so in its own file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEGABYTE = 1024 * 1024
TRANSFER_BYTES = 10 * MEGABYTE  #: of a body that goes up or comes down
CHUNK = b"fifteen letters\n"
CHUNKS = 1000  #: of one streamed answer
JSON_BYTES = {"json-1k": 1000, "json-100k": 100_000}


@dataclass(frozen=True)
class Ask:
    """One request, and the only answer that counts as right."""

    answer: str | Mapping[str, object]  #: text, or what the body must be as JSON
    path: str = "/"
    method: str = "GET"
    body: str = ""
    content_type: str = "application/json"  #: of the body

    def is_right(self, status: int, body: bytes) -> bool:
        if status != 200:
            return False
        if isinstance(self.answer, str):
            return body.decode() == self.answer
        try:
            return bool(json.loads(body) == self.answer)
        except ValueError:
            return False


def document(size: int) -> dict[str, Any]:
    """Return a JSON object that is written in about `size` bytes: a list of small records."""
    record = {"id": 1000, "name": "a thing", "tags": ["red", "small"], "price": 12.5}
    each = len(json.dumps(record)) + 2
    return {"items": [{**record, "id": 1000 + number} for number in range(size // each)]}


def _json(size: int) -> Ask:
    return Ask(answer=document(size), path="/json", method="POST", body=json.dumps(document(size)))


ASKS: Mapping[str, Ask] = {
    "noop": Ask(answer="hello"),
    "fastapi": Ask(answer={"message": "hello", "number": 42}),
    "starlette": Ask(answer="hello", path="/hello"),
    **{name: _json(size) for name, size in JSON_BYTES.items()},
    "upload": Ask(
        answer=str(TRANSFER_BYTES),
        path="/upload",
        method="POST",
        body="x" * TRANSFER_BYTES,
        content_type="application/octet-stream",
    ),
    "download": Ask(answer="x" * TRANSFER_BYTES, path="/download"),
    "chunks": Ask(answer=CHUNK.decode() * CHUNKS, path="/chunks"),
    "chain": Ask(answer="3", path="/?what=chain"),
    "fan-out": Ask(answer="10", path="/?what=fan-out"),
    "single": Ask(answer="done", path="/single"),
    "batched": Ask(answer="done", path="/batched"),
    "busy": Ask(answer="done"),
}
