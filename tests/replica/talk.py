"""A deployment that logs."""

from __future__ import annotations

import logging

import serve_lite as serve

log = logging.getLogger("ray.serve")
own = logging.getLogger("shop.prices")


@serve.deployment
class Talker:
    def __call__(self, what: str) -> str:
        log.debug("debug %s", what)
        log.info("said %s", what)
        own.warning("own %s", what, extra={"price": 3})
        return serve.get_replica_context().replica_tag

    def fail(self) -> None:
        log.info("failing")
        raise KeyError("price")


app = Talker.bind()
