"""What this replica tells its callers of itself: loaded models, and what the user's hooks say."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from serve_lite.replica.user_code import WrongStatsError
from serve_lite.wire.listener import Listener
from serve_lite.wire.messages import ReplicaFacts

log = logging.getLogger("serve_lite.replica")

_AUTOSCALING_PERIOD_S = 10.0  #: Ray Serve's
_AUTOSCALING_TIMEOUT_S = 10.0
_WEAR_PERIOD_S = 1.0

_encode = msgspec.msgpack.Encoder().encode


class Facts:
    """Tells callers on each change.

    Lifetime: `follow` may start a task, which `aclose` ends.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._facts = ReplicaFacts()
        self._polling: list[asyncio.Task[None]] = []

    def follow(
        self,
        metadata: dict[str, Any] | None,
        routing_stats: Callable[[], Awaitable[dict[str, Any] | None]] | None,
        *,
        period_s: float,
        timeout_s: float,
        models: bool = True,
    ) -> None:
        """Begin to tell, of the models that are loaded and of what the user's hooks return.

        Args:
            metadata: told once.
            models: whether to follow which models are loaded; only one replica of a process can.
            routing_stats: asked every `period_s` seconds, and given up for that time after `timeout_s`.
        """
        self._facts.metadata = metadata or {}
        if models and "serve_lite.multiplex" in sys.modules:  # lazily: few applications load models by id
            multiplex = sys.modules["serve_lite.multiplex"]
            multiplex.on_models_changed(self._set_models)
            self._facts.model_ids = multiplex.loaded_model_ids()
        if routing_stats is not None:
            self._polling.append(self._loop.create_task(self._poll(routing_stats, period_s, timeout_s)))
        if self._facts != ReplicaFacts():
            self._tell()

    def follow_autoscaling(self, stats: Callable[[], Awaitable[dict[str, float] | None]]) -> None:
        """Begin to tell what the user's `record_autoscaling_stats` returns, for autoscaling policies."""
        self._polling.append(self._loop.create_task(self._poll_autoscaling(stats)))

    def follow_wear(self, judge: Callable[[], str]) -> None:
        """Begin to tell whether this replica has served long enough: what `judge` returns, "" for no."""
        self._polling.append(self._loop.create_task(self._poll_wear(judge)))

    async def aclose(self) -> None:
        """Tell nothing more."""
        for polling in self._polling:
            polling.cancel()
        if self._polling:
            await asyncio.wait(self._polling)

    def _set_models(self, model_ids: list[str]) -> None:
        if model_ids != self._facts.model_ids:
            self._facts.model_ids = list(model_ids)
            if asyncio._get_running_loop() is self._loop:
                self._tell()  # at once, so that it travels with the answer of the call that had it loaded
            else:  # several replicas share this process
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._listener.tell_facts(_encode(self._facts))

    async def _poll(
        self, routing_stats: Callable[[], Awaitable[dict[str, Any] | None]], period_s: float, timeout_s: float
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    stats = await routing_stats() or {}
                if stats != self._facts.routing_stats:
                    self._facts.routing_stats = stats
                    self._tell()
            except Exception:  # boundary: the user's hook; what it said last stays true as far as we know
                log.exception("record_routing_stats failed")
            await asyncio.sleep(period_s)

    async def _poll_wear(self, judge: Callable[[], str]) -> None:
        while True:
            worn = judge()
            if worn != self._facts.worn:
                self._facts.worn = worn
                self._tell()
            await asyncio.sleep(_WEAR_PERIOD_S)

    async def _poll_autoscaling(self, ask: Callable[[], Awaitable[dict[str, float] | None]]) -> None:
        """Ask until it returns something that is no stats: it will not be asked again then."""
        while True:
            try:
                async with asyncio.timeout(_AUTOSCALING_TIMEOUT_S):
                    stats = await ask() or {}
                if stats != self._facts.autoscaling_stats:
                    self._facts.autoscaling_stats = stats
                    self._tell()
            except WrongStatsError as error:
                log.error("%s It is not asked again in this replica.", error)
                return
            except Exception:  # boundary: the user's hook; what it said last stays true as far as we know
                log.exception("record_autoscaling_stats failed")
            await asyncio.sleep(_AUTOSCALING_PERIOD_S)
