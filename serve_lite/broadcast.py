"""Broadcasts: one call to every replica of a deployment, and the results of all of them.

Started by `DeploymentHandle.broadcast`. The calls go beyond what the replicas' limits allow, and none of them
goes to another replica than the one it was made for.
"""

from __future__ import annotations

import asyncio
from typing import Any

from serve_lite.exceptions import DeploymentNotFoundError, DeploymentUnavailableError, RayServeException
from serve_lite.responses import HandleCall, UnaryCall
from serve_lite.wire.messages import MemberState

_SETTLE_S = 5.0  #: how long a broadcast waits for replicas that are known and not yet connected


class BroadcastCall(HandleCall):
    """The calls of one broadcast as one: done when each of them is."""

    _parts: tuple[_Part, ...] = ()
    _is_sent = False
    _settle_timer: asyncio.TimerHandle | None = None

    def outcomes(self) -> list[Any]:
        """Return what each replica answered, or the error of those that failed.

        Raises:
            what kept the broadcast as a whole from being sent, or that it was cancelled.
        """
        if self.error is not None:
            raise self.raised()
        return [part.error if part.error is not None else part.value() for part in self._parts]

    def values(self) -> list[Any]:
        """Return what each replica answered, or raise the first error there is."""
        if self.error is not None:
            raise self.raised()
        return [part.value() for part in self._parts]

    def _submit(self) -> None:
        if self.done:
            return
        if self.counts is not None:
            self.counts.add(self.head.route)
        router = self.router = self.runtime.routers.get(self.target.app_name, self.target.name)
        self._settle_timer = self.runtime.loop.call_later(_SETTLE_S, self._send)
        router.when_settled(self._send)

    def _send(self) -> None:
        if self.done or self._is_sent:
            return
        assert self.router is not None
        parts: list[_Part] = []

        def make(replica_id: str) -> _Part:
            part = _Part(self, replica_id)
            parts.append(part)
            return part

        self.router.broadcast(make)
        self._is_sent, self._parts = True, tuple(parts)
        if parts:
            self.part_ended()
        elif self.router.state is MemberState.MISSING:
            self.fail(DeploymentNotFoundError(self.target))
        else:
            error = DeploymentUnavailableError(self.target)
            error.add_note("It was broadcast to, and no replica of it is running.")
            self.fail(error)

    def part_ended(self) -> None:
        """One of the calls has its answer, or none to expect."""
        if self._is_sent and not self.done and all(part.done for part in self._parts):
            self.finish()

    def finish(self) -> None:
        if self._settle_timer is not None:
            self._settle_timer.cancel()
        super().finish()

    def _cancel(self) -> None:
        super()._cancel()  # first: the ends of the parts are not ours any more
        for part in self._parts:
            part._cancel()


class _Part(UnaryCall):
    """One replica's call."""

    def __init__(self, whole: BroadcastCall, replica_id: str) -> None:
        super().__init__(whole.runtime, whole.target, whole.head)
        self.whole = whole
        self.router = whole.router
        self.pinned = replica_id
        self.envelope, self.buffers = whole.envelope, whole.buffers

    def finish(self) -> None:
        super().finish()
        self.whole.part_ended()


class DeploymentBroadcastResponse:
    """The results of a broadcast, in no particular order. They may be asked for as often as wanted."""

    __slots__ = ("_call",)

    def __init__(self, call: BroadcastCall) -> None:
        self._call = call

    @property
    def request_id(self) -> str:
        """The id under which the calls appear in logs."""
        return self._call.head.request_id

    def results(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Block until every replica has answered and return the answers.

        Args:
            timeout_s: seconds to wait; None waits without end, 0 only looks. The calls are not cancelled when
                the time is over, and results may be asked for again.
            return_exceptions: put the errors of replicas that failed among the answers, instead of raising the
                first one.

        Raises:
            DeploymentUnavailableError: no replica was running.
            TimeoutError: not every replica has answered.
            ValueError: `timeout_s` is negative.
            RuntimeError: called where an event loop runs, which it would block.
        """
        _check_timeout(timeout_s)
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "`results()` should not be called from within an `asyncio` event loop. "
                "Use `await response.results_async()` instead."
            )
        call = self._call
        if not call.done and not call.block(timeout_s):
            raise _too_late(call, timeout_s)
        return call.outcomes() if return_exceptions else call.values()

    async def results_async(
        self, *, timeout_s: float | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """`results` for asynchronous code.

        Raises:
            DeploymentUnavailableError, TimeoutError, ValueError: as `results`.
        """
        _check_timeout(timeout_s)
        call = self._call
        try:
            async with asyncio.timeout(timeout_s):
                while not call.done:
                    await call.changed()
        except TimeoutError:
            raise _too_late(call, timeout_s) from None
        return call.outcomes() if return_exceptions else call.values()

    def cancel(self) -> None:
        """Ask that the work be stopped on every replica. Asking for results then raises RequestCancelledError."""
        self._call.cancel()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._call.cancelled

    def __reduce__(self) -> Any:
        raise RayServeException(
            "A `DeploymentBroadcastResponse` cannot be passed to another call; pass its results."
        )

    def __repr__(self) -> str:
        state = "done" if self._call.done else "pending"
        return f"DeploymentBroadcastResponse({self._call.target.name}.{self._call.head.method}, {state})"


def _check_timeout(timeout_s: float | None) -> None:
    if timeout_s is not None and timeout_s < 0:
        raise ValueError(f"timeout_s is {timeout_s}; it must be at least 0, or None for no limit.")


def _too_late(call: BroadcastCall, timeout_s: float | None) -> TimeoutError:
    return TimeoutError(
        f"Broadcast {call.head.request_id} has not been answered by every replica after {timeout_s} s."
    )
