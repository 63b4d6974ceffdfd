"""`@serve.batch`: calls that arrive close together run as one call with lists.

Each decorated function has a queue per event loop. A batch is closed when it is full, or when its first
item has waited `batch_wait_timeout_s`; while `max_concurrent_batches` run, further calls keep joining the
one that is forming. There is no background task that could die: adding an item, a timer and the end of a
batch each look whether something is to be started. Works anywhere with a running loop, replica or not.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, cast, overload

from serve_lite.checks import integer, real, wrong
from serve_lite.context import (
    RequestContext,
    _serve_request_context,
    detached_context,
    get_multiplexed_model_id,
)
from serve_lite.exceptions import RayServeException, RequestCancelledError

ENDED = (
    StopIteration,
    StopAsyncIteration,
)  #: yielded, as classes, in the place of a caller whose stream ends


class Batched(Protocol):
    """A batched function: called with one item, awaited (or iterated) for that item's result."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        """Change the size from the next batch on."""

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        """Change the wait from the next batch on."""


@overload
def batch(_func: Callable[..., Any], /) -> Batched: ...
@overload
def batch(
    _func: None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Callable[[Callable[..., Any]], Batched]: ...
def batch(
    _func: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Batched | Callable[[Callable[..., Any]], Batched]:
    """Decorate an async function or method that takes lists so that it is called with single items.

    The function gets a list for each parameter and returns a list of the same length, one result for each
    caller. An `async def` with `yield` yields such lists; `StopIteration` in a place ends that caller's
    stream. What it raises is raised in every caller. Calls with different multiplexed model ids, or on
    different instances, never share a list.

    Args:
        max_batch_size: most items in one list, or largest `batch_size_fn`.
        batch_wait_timeout_s: seconds the first item waits for others; 0 takes what is there already.
        max_concurrent_batches: how many batches of this function run at once.
        batch_size_fn: size of a list of items (first arguments), instead of its length.

    Raises:
        TypeError, ValueError: at decoration, for wrong options or a function that is not `async def`.
    """
    limits = _Limits(max_batch_size, batch_wait_timeout_s, max_concurrent_batches, batch_size_fn)

    def decorate(func: Callable[..., Any]) -> Batched:
        if not (inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)):
            raise TypeError(
                f"Functions decorated with @serve.batch must be 'async def', but {func!r} is not."
            )
        return _wrap(func, limits.copy())

    if _func is None:
        return decorate
    if not callable(_func):
        raise TypeError(f"@serve.batch must be used on an async function, not on {_func!r}.")
    return decorate(_func)


class _Limits:
    """The checked options of one batched function."""

    def __init__(self, size: Any, wait_s: Any, concurrent: Any, size_fn: Any) -> None:
        self.set_size(size)
        self.set_wait(wait_s)
        if not isinstance(concurrent, int) or isinstance(concurrent, bool) or concurrent < 1:
            raise wrong(concurrent, "max_concurrent_batches", "an integer, at least 1", wrong_type=True)
        if size_fn is not None and not callable(size_fn):
            raise wrong(size_fn, "batch_size_fn", "a function of a list, or None", wrong_type=True)
        self.concurrent = concurrent
        self.size_fn: Callable[[list[Any]], int] | None = size_fn

    def set_size(self, value: Any) -> None:
        if isinstance(value, float) and not value.is_integer():
            raise wrong(value, "max_batch_size", "an integer, at least 1", wrong_type=True)
        self.size: int = integer(at_least=1)(value, "max_batch_size", False)

    def set_wait(self, value: Any) -> None:
        if isinstance(value, str) or value is None:
            raise wrong(value, "batch_wait_timeout_s", "a number, at least 0", wrong_type=True)
        self.wait_s: float = real(at_least=0)(value, "batch_wait_timeout_s", False)

    def copy(self) -> _Limits:
        return _Limits(self.size, self.wait_s, self.concurrent, self.size_fn)


def _wrap(func: Callable[..., Any], limits: _Limits) -> Batched:
    """Return the function that callers see."""
    batcher = _Batcher(func, limits)
    if batcher.is_stream:

        @functools.wraps(func)
        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            mailbox = batcher.add(args, kwargs)
            try:
                while await mailbox.has_item():
                    yield mailbox.take()
            finally:
                mailbox.close()

        wrapper: Any = stream
    else:

        @functools.wraps(func)
        async def unary(*args: Any, **kwargs: Any) -> Any:
            return await batcher.add(args, kwargs).value()

        wrapper = unary
    wrapper.set_max_batch_size = limits.set_size
    wrapper.set_batch_wait_timeout_s = limits.set_wait
    wrapper._get_max_batch_size = lambda: limits.size
    wrapper._get_batch_wait_timeout_s = lambda: limits.wait_s
    wrapper._get_curr_iteration_start_times = batcher.start_times
    wrapper._is_batching_task_alive = batcher.is_alive
    wrapper._get_handling_task_stack = batcher.stacks
    return cast("Batched", wrapper)


# --- one caller ----------------------------------------------------------------------------------


class _Mailbox:
    """Where one caller's results arrive: one value, or a stream of items."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._ended = False  #: nothing more will arrive
        self._left = False  #: the caller does not wait any more
        self._waiter: asyncio.Future[None] | None = None

    @property
    def wants_more(self) -> bool:
        """False once the stream has ended or the caller has gone."""
        return not (self._ended or self._left)

    def put(self, item: Any) -> None:
        if self.wants_more:
            self._items.append(item)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        if self.wants_more:
            self._ended, self._error = True, error
            self._wake()

    def close(self) -> None:
        """The caller goes away, finished or cancelled."""
        self._left = True

    async def value(self) -> Any:
        """Wait for the one value."""
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
                if self._error is not None:
                    raise self._error
                return False
            self._waiter = self._loop.create_future()
            await self._waiter  # ends with an item or the end: every way out of a batch gives one
        return True

    def take(self) -> Any:
        """Return the item that `has_item` announced."""
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Item:
    """One call that waits to be part of a batch."""

    __slots__ = ("args", "kwargs", "mailbox", "model_id", "owner")

    def __init__(
        self, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], model_id: str, mailbox: _Mailbox
    ) -> None:
        self.owner = owner
        self.args = args
        self.kwargs = kwargs
        self.model_id = model_id
        self.mailbox = mailbox

    @property
    def first_argument(self) -> Any:
        return self.args[0] if self.args else next(iter(self.kwargs.values()), None)

    @property
    def group(self) -> tuple[Any, ...]:
        """Items of one group can share a call."""
        return id(self.owner), self.model_id, len(self.args), tuple(self.kwargs)


_NO_OWNER = object()


# --- forming and running batches -----------------------------------------------------------------


class _Queue:
    """The batches of one function on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.forming: list[_Item] = []
        self.forming_since = 0.0
        self.closed: deque[list[_Item]] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.running: dict[asyncio.Task[None], float] = {}  #: strong references, with start times


class _Batcher:
    """Collects the calls of one function into batches and runs them."""

    def __init__(self, func: Callable[..., Any], limits: _Limits) -> None:
        self.is_stream = inspect.isasyncgenfunction(func)
        self._func = func
        self._signature = inspect.signature(func)
        self._limits = limits
        self._is_method: dict[type, bool] = {}
        self._queues: weakref.WeakKeyDictionary[Any, _Queue] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> Any:
        return _Batcher, (self._func, self._limits)  # queues stay where their loop is

    # --- adding ---

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Mailbox:
        """Queue one call.

        Raises:
            TypeError: the arguments do not fit the function.
            RuntimeError: this item alone is larger than `max_batch_size`.
        """
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(loop)
        bound = self._signature.bind(*args, **kwargs)
        owner, arguments = _NO_OWNER, bound.args
        if args and self._belongs_to(type(args[0])):
            owner, arguments = arguments[0], arguments[1:]
        item = _Item(owner, arguments, bound.kwargs, get_multiplexed_model_id(), _Mailbox(loop))
        if self._limits.size_fn is not None and self._size([item]) > self._limits.size:
            raise RuntimeError(
                f"Size of item is greater than max_batch_size ({self._limits.size}): "
                f"batch_size_fn gives {self._size([item])} for it."
            )
        self._join(queue, item)
        self._start_what_is_due(queue)
        return item.mailbox

    def _belongs_to(self, kind: type) -> bool:
        """Whether `kind` has this function as a method, so that the first argument is `self`."""
        known = self._is_method.get(kind)
        if known is None:
            name = self._func.__name__
            known = any(self._is_wrapped_in(base.__dict__.get(name)) for base in kind.__mro__)
            self._is_method[kind] = known
        return known

    def _is_wrapped_in(self, found: Any) -> bool:
        while found is not None and found is not self._func:
            found = getattr(found, "__wrapped__", None)
        return found is not None

    def _size(self, items: Sequence[_Item]) -> int:
        if self._limits.size_fn is None:
            return len(items)
        return self._limits.size_fn([item.first_argument for item in items])

    def _join(self, queue: _Queue, item: _Item) -> None:
        """Put the item into the forming batch, or close that one and begin another."""
        forming = queue.forming
        if forming:
            try:
                fits = self._size([*forming, item]) <= self._limits.size
            except Exception:
                fits = False  # alone it has a size, so the user's function dislikes the mix: keep them apart
            if not fits:
                queue.closed.append(forming)
                forming = queue.forming = []
        if not forming:
            queue.forming_since = queue.loop.time()
        forming.append(item)

    # --- starting ---

    def _start_what_is_due(self, queue: _Queue) -> None:
        """Start closed batches, and the forming one if it is full or has waited, as far as there is room."""
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        while len(queue.running) < self._limits.concurrent:
            if queue.closed:
                self._start(queue, queue.closed.popleft())
            elif queue.forming and self._is_full(queue.forming):
                queue.forming, due = [], queue.forming
                self._start(queue, due)
            else:
                break
        if queue.forming and len(queue.running) < self._limits.concurrent:
            due_at = queue.forming_since + self._limits.wait_s
            queue.timer = queue.loop.call_at(due_at, self._on_timer, queue)

    def _on_timer(self, queue: _Queue) -> None:
        queue.timer = None
        if queue.forming and len(queue.running) < self._limits.concurrent:
            queue.forming, due = [], queue.forming
            self._start(queue, due)

    def _is_full(self, forming: list[_Item]) -> bool:
        try:
            return self._size(forming) >= self._limits.size
        except Exception:
            return False  # it will be started by the timer

    def _start(self, queue: _Queue, items: list[_Item]) -> None:
        """Run a batch in a task of its own, outside every request's context.

        No task group: the callers' loop owns nothing that outlives their requests. The queue keeps the task,
        and each caller is woken whichever way the task ends.
        """
        task = queue.loop.create_task(self._run(items), context=detached_context())
        queue.running[task] = queue.loop.time()
        task.add_done_callback(functools.partial(self._on_done, queue, items))

    def _on_done(self, queue: _Queue, items: list[_Item], task: asyncio.Task[None]) -> None:
        queue.running.pop(task, None)
        error = RequestCancelledError() if task.cancelled() else task.exception()
        for item in items:
            item.mailbox.end(error)
        if not queue.loop.is_closed():
            self._start_what_is_due(queue)

    async def _run(self, items: list[_Item]) -> None:
        """Run one batch, split into groups that can share a call. Callers that went away are left out."""
        groups: dict[tuple[Any, ...], list[_Item]] = {}
        for item in items:
            if item.mailbox.wants_more:
                groups.setdefault(item.group, []).append(item)
        if len(groups) == 1:
            await self._run_group(*groups.values())
        elif groups:
            contexts = [detached_context() for _ in groups]
            loop = asyncio.get_running_loop()
            await asyncio.gather(
                *(
                    loop.create_task(self._run_group(group), context=context)
                    for group, context in zip(groups.values(), contexts, strict=True)
                )
            )

    async def _run_group(self, items: list[_Item]) -> None:
        _serve_request_context.set(RequestContext(multiplexed_model_id=items[0].model_id))
        mailboxes = [item.mailbox for item in items]
        try:
            called = self._call(items)
            if self.is_stream:
                await _deliver_stream(called, mailboxes)
            else:
                _deliver(await called, mailboxes)
        except (
            asyncio.CancelledError
        ):  # whoever cancelled the batch, its callers were not cancelled themselves
            for mailbox in mailboxes:
                mailbox.end(RequestCancelledError())
        except Exception as error:  # boundary: the user's function; every caller hears of it
            for mailbox in mailboxes:
                mailbox.end(error)

    def _call(self, items: list[_Item]) -> Any:
        first = items[0]
        lists = [[item.args[i] for item in items] for i in range(len(first.args))]
        named = {name: [item.kwargs[name] for item in items] for name in first.kwargs}
        if first.owner is not _NO_OWNER:
            return self._func(first.owner, *lists, **named)
        return self._func(*lists, **named)

    # --- looking in ---

    def start_times(self) -> dict[Any, float]:
        """Return when each running batch started, on its loop's clock."""
        return {task: at for queue in tuple(self._queues.values()) for task, at in queue.running.items()}

    async def is_alive(self) -> bool:
        """Return True: there is no task that could have died."""
        return True

    async def stacks(self) -> str:
        """Return where the running batches stand, as text."""
        out = io.StringIO()
        for task in self.start_times():
            task.print_stack(file=out)
        return out.getvalue()


def _deliver(results: Any, mailboxes: list[_Mailbox]) -> None:
    """Give each caller its result."""
    _check_length(results, mailboxes, "returned")
    for mailbox, result in zip(mailboxes, results, strict=True):
        mailbox.put(result)
        mailbox.end()


async def _deliver_stream(produced: Any, mailboxes: list[_Mailbox]) -> None:
    """Give each caller its place of every yielded list, until all have ended or gone."""
    try:
        async for results in produced:
            _check_length(results, mailboxes, "yielded")
            for mailbox, result in zip(mailboxes, results, strict=True):
                if any(result is mark for mark in ENDED):  # `is`: `==` on arrays is no answer
                    mailbox.end()
                else:
                    mailbox.put(result)
            if not any(mailbox.wants_more for mailbox in mailboxes):
                break
    finally:
        await produced.aclose()
    for mailbox in mailboxes:
        mailbox.end()


def _check_length(results: Any, mailboxes: list[_Mailbox], verb: str) -> None:
    try:
        length = len(results)
    except TypeError:
        raise RayServeException(
            f"A batched function must return a list, but it {verb} {type(results).__name__!r}."
        ) from None
    if length != len(mailboxes):
        raise RayServeException(
            f"Batched function doesn't preserve batch size. The input list has length {len(mailboxes)} but it "
            f"{verb} one of length {length}."
        )
