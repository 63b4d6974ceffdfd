"""One call of a batched function, and how its results reach the callers that share it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from serve_lite.context import RequestContext, SharedContext, _serve_request_context
from serve_lite.exceptions import RayServeException
from serve_lite.user_errors import Failure

log = logging.getLogger("serve_lite.batching")

_AHEAD_ITEMS = 64  #: how far a stream may run ahead of the caller that is nearest to it
NO_OWNER = object()  #: in the place of an instance, of functions that are no methods


class Mailbox:
    """Where one caller's results arrive: one value, or a stream of items."""

    __slots__ = ("_ended", "_failure", "_items", "_left", "_waiter", "on_left", "on_taken")

    def __init__(self) -> None:
        self.on_left: Callable[[], None] | None = None  #: called when the caller goes before the end
        self.on_taken: Callable[[], None] | None = None  #: called when the caller takes an item
        self._items: deque[Any] = deque()
        self._failure: Failure | None = None
        self._ended = False  #: nothing more will arrive
        self._left = False  #: the caller does not wait any more
        self._waiter: asyncio.Future[None] | None = None

    @property
    def wants_more(self) -> bool:
        """False once the stream has ended or the caller has gone."""
        return not (self._ended or self._left)

    @property
    def n_items(self) -> int:
        """Items that the caller has not taken yet."""
        return len(self._items)

    def put(self, item: Any) -> None:
        """Give the caller an item."""
        if self.wants_more:
            self._items.append(item)
            self._wake()

    def end(self, failure: Failure | None = None) -> None:
        """Give the caller the end: of its stream, or of its hope."""
        if self.wants_more:
            self._ended, self._failure = True, failure
            self._wake()

    def close(self) -> None:
        """The caller goes away, finished or cancelled."""
        goes_early = self.wants_more
        self._left = True
        if goes_early and self.on_left is not None:
            self.on_left()

    async def value(self) -> Any:
        """Wait for the one value; raises what its batch failed with."""
        try:
            if await self.has_item():
                return self.take()
            raise RayServeException("The batched function ended without a result for this call.")
        finally:
            self.close()

    async def has_item(self) -> bool:
        """Wait for an item; False at the end, or the error that ended it."""
        while not self._items:
            if self._ended:
                if self._failure is not None:
                    self._failure.throw()
                return False
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter  # ends with an item or the end: every way out of a batch gives one
        return True

    def take(self) -> Any:
        """Return the item that `has_item` announced."""
        if self.on_taken is not None:
            self.on_taken()
        return self._items.popleft()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and not waiter.get_loop().is_closed():
            waiter.set_result(None)


class Item:
    """One caller's arguments, waiting to be part of a batch."""

    __slots__ = ("args", "arrived", "context", "kwargs", "mailbox", "owner")

    def __init__(
        self,
        owner: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: RequestContext,
        arrived: float,
    ) -> None:
        self.owner = owner
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.arrived = arrived  #: on its loop's clock
        self.mailbox = Mailbox()

    @property
    def first_argument(self) -> Any:
        """What a `batch_size_fn` measures."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()), None)

    @property
    def group(self) -> tuple[Any, ...]:
        """Items of one group can share a call."""
        return id(self.owner), self.context.multiplexed_model_id, len(self.args), frozenset(self.kwargs)


class Call:
    """One call of the user's function with lists. Whatever happens in it, every caller hears something.

    Lifetime: the queue runs `run` in a task of its own and calls `finish` when that has ended. One caller's
    leaving changes nothing for the others; a stream that every caller has left is cancelled, for it might
    never end.

    Args:
        items: of one group, at least one.
        behind: returns the requests that wait until this call has ended without being part of it.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        name: str,
        items: list[Item],
        *,
        is_stream: bool,
        behind: Callable[[], Iterable[RequestContext]],
    ) -> None:
        self._func = func
        self._name = name
        self._items = items
        self._is_stream = is_stream
        self._behind = behind
        self._task: asyncio.Task[Any] | None = None  #: set while the stream may be cancelled
        self._moved = asyncio.Event()  #: a caller of the stream has taken something, or gone
        self._context = SharedContext(items[0].context.multiplexed_model_id, self._waiters)

    async def run(self) -> None:
        """Call the function and deliver what comes."""
        self._items = [item for item in self._items if item.mailbox.wants_more]
        if not self._items:
            return  # they have gone since the batch was started
        _serve_request_context.set(self._context)
        try:
            called = self._called()
            if self._is_stream:
                await self._deliver_stream(called)
            else:
                self._deliver(await called)
        except BaseException as error:  # boundary: user code. The loop must survive KeyboardInterrupt, too
            self._fail(error)

    def finish(self) -> None:
        """The task has ended, perhaps cancelled before its first step: nobody waits any more, nothing is held."""
        if self._is_wanted:
            self._fail(asyncio.CancelledError())
        self._context.end()

    @property
    def _is_wanted(self) -> bool:
        return any(item.mailbox.wants_more for item in self._items)

    def _waiters(self) -> Iterable[RequestContext]:
        return itertools.chain((item.context for item in self._items), self._behind())

    def _called(self) -> Any:
        items, first = self._items, self._items[0]
        lists = [[item.args[i] for item in items] for i in range(len(first.args))]
        named = {name: [item.kwargs[name] for item in items] for name in first.kwargs}
        if first.owner is not NO_OWNER:
            return self._func(first.owner, *lists, **named)
        return self._func(*lists, **named)

    def _deliver(self, results: Any) -> None:
        """Give each caller its result."""
        for item, result in zip(self._items, self._checked(results, "returned"), strict=True):
            item.mailbox.put(result)
            item.mailbox.end()

    async def _deliver_stream(self, produced: Any) -> None:
        """Give each caller its place of every yielded list, until all have ended or gone."""
        self._task = asyncio.current_task()
        for item in self._items:
            item.mailbox.on_left = self._on_left
            item.mailbox.on_taken = self._moved.set
        try:
            async for results in produced:
                for item, result in zip(self._items, self._checked(results, "yielded"), strict=True):
                    if result is StopIteration or result is StopAsyncIteration:  # `==` on arrays is no answer
                        item.mailbox.end()
                    else:
                        item.mailbox.put(result)
                await asyncio.sleep(0)  # a generator that never waits would not let its callers run
                while self._is_far_ahead():
                    self._moved.clear()
                    await (
                        self._moved.wait()
                    )  # ends with a caller that takes an item, or when the last one goes
                if not self._is_wanted:
                    break
        finally:
            self._task = None
            if hasattr(produced, "aclose"):
                await produced.aclose()
        for item in self._items:
            item.mailbox.end()

    def _is_far_ahead(self) -> bool:
        """Whether no caller keeps up. One slow reader does not stop the others."""
        ahead = [item.mailbox.n_items for item in self._items if item.mailbox.wants_more]
        return bool(ahead) and min(ahead) >= _AHEAD_ITEMS

    def _on_left(self) -> None:
        self._moved.set()
        if self._task is not None and not self._is_wanted:
            self._task.cancel()
            self._task = None

    def _checked(self, results: Any, verb: str) -> list[Any]:
        """Return the results as a list of the right length.

        Raises:
            RayServeException: there are not as many results as callers, or this is no list at all.
        """
        wanted = len(self._items)
        try:
            length = len(results)
        except TypeError as error:
            raise RayServeException(
                f"Batched function {self._name!r} must give a list with a result for each of its {wanted} callers, "
                f"but it {verb} {type(results).__name__!r}."
            ) from error
        if length == wanted:
            taken = list(
                itertools.islice(results, wanted + 1)
            )  # what its iterator gives may be something else
            if len(taken) == wanted:
                return taken
            length = len(taken)
        raise RayServeException(
            f"Batched function {self._name!r} doesn't preserve batch size. The input list has length {wanted} but "
            f"it {verb} one of length {length}."
        )

    def _fail(self, error: BaseException) -> None:
        """Tell every caller; if none is left to hear of it, the log."""
        if isinstance(error, asyncio.CancelledError):
            self._context.cancel_children()
        elif not self._is_wanted:
            log.error(
                "Batched function %r failed after all its callers had gone.", self._name, exc_info=error
            )
        failure = Failure(error, f"Batched function {self._name!r}")
        for item in self._items:
            item.mailbox.end(failure)
