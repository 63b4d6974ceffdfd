"""A deployment that the applications call."""

from __future__ import annotations

import serve_lite as serve
from serve_lite.context import _serve_request_context


@serve.deployment
class Prices:
    def price_of(self, dish: str) -> dict[str, object]:
        return {"price": len(dish), "for_request": _serve_request_context.get().request_id}
