"""An application whose replicas fail while the test says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import serve_lite as serve


@serve.deployment
class Fails:
    """Answers with its pid; fails, in one way or the other, while there is a file of that name."""

    def __init__(self, folder: str) -> None:
        self._mark = Path(folder) / str(os.getpid())
        self._calls = 0

    async def __call__(self, request: Request) -> Response:
        self._calls += 1
        if not self._mark.exists():
            return PlainTextResponse(str(os.getpid()))
        if self._calls % 2:
            return PlainTextResponse("out of order", 500)
        raise RuntimeError("out of order")


def app(args: dict[str, Any]) -> serve.Application:
    """Build it with these options."""
    folder = args.pop("folder")
    return Fails.options(**args).bind(folder)
