"""Collects the calls of one function into batches.

There is no background task that could die: adding an item, a timer and the end of a batch each look whether
something is to be started. A batch is full, or its first item has waited long enough; it starts when one of
the `concurrent` places is free, and until then it keeps being filled, also in the places of callers that
went away.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

from serve_lite.batches.calls import NO_OWNER, Call, Item, Mailbox
from serve_lite.checks import integer, real, wrong
from serve_lite.context import (
    RequestContext,
    _serve_request_context,
    detached_context,
    note_wait,
    ongoing_limit,
)
from serve_lite.instruments import Counter, Gauge, Histogram
from serve_lite.user_errors import Failure

log = logging.getLogger("serve_lite.batching")

_LABELS = ("function_name",)
_WAIT_MS = Histogram(
    "serve_batch_wait_time_ms", "How long the first item of a batch had waited when it started.", _LABELS
)
_EXECUTION_MS = Histogram("serve_batch_execution_time_ms", "How long a batch ran.", _LABELS)
_UTILIZATION = Histogram(
    "serve_batch_utilization_percent",
    "Size of a batch, in percent of max_batch_size.",
    _LABELS,
    (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100),
)
_SIZE = Histogram(
    "serve_actual_batch_size",
    "Items in one call of the batched function.",
    _LABELS,
    (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
_QUEUED = Gauge("serve_batch_queue_length", "Items that wait for their batch to start.", _LABELS)
_PROCESSED = Counter("serve_batches_processed", "Calls of the batched function that have ended.", _LABELS)


class Limits:
    """The checked options of one batched function."""

    def __init__(self, size: Any, wait_s: Any, concurrent: Any, size_fn: Any) -> None:
        self.set_max_batch_size(size)
        self.set_batch_wait_timeout_s(wait_s)
        if not isinstance(concurrent, int) or isinstance(concurrent, bool) or concurrent < 1:
            raise wrong(concurrent, "max_concurrent_batches", "an integer, at least 1", wrong_type=True)
        if size_fn is not None and not callable(size_fn):
            raise wrong(size_fn, "batch_size_fn", "a function of a list, or None", wrong_type=True)
        self.concurrent = concurrent
        self.size_fn: Callable[[list[Any]], int] | None = size_fn

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        """Change the size from the next batch on."""
        size: Any = new_max_batch_size
        if isinstance(size, float) and not size.is_integer():
            raise wrong(size, "max_batch_size", "an integer, at least 1", wrong_type=True)
        self.size: int = integer(at_least=1)(size, "max_batch_size", False)
        self.is_compared = False  #: with what the replica takes at once

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        """Change the wait from the next batch on."""
        self.wait_s: float = real(at_least=0)(new_batch_wait_timeout_s, "batch_wait_timeout_s", False)

    def copy(self) -> Limits:
        """Return limits of their own for one more function."""
        return Limits(self.size, self.wait_s, self.concurrent, self.size_fn)


class _Queue:
    """What waits and what runs on one event loop."""

    def __init__(self) -> None:
        self.waiting: deque[Item] = deque()  #: behind those that are gathered
        self.gathered: list[Item] = []  #: the next batch
        self.gathered_size = 0.0
        self.is_cut = False  #: nothing more fits into it
        self.max_size = 0  #: of the next batch, as it was when its first item came
        self.due_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at: float | None = None  #: uvloop's handles do not always know
        self.n_running = 0
        self.calls: dict[asyncio.Task[None], float] = {}  #: strong references, with start times

    @property
    def n_queued(self) -> int:
        return len(self.waiting) + len(self.gathered)

    def items(self) -> Iterator[Item]:
        yield from self.gathered
        yield from self.waiting


class Batcher:
    """The batches of one function, on every event loop that calls it."""

    def __init__(self, func: Callable[..., Any], limits: Limits) -> None:
        self.is_stream = inspect.isasyncgenfunction(inspect.unwrap(func))
        self._func = func
        self._name = str(getattr(func, "__name__", func))
        self._limits = limits
        self._signature = inspect.signature(func)
        self._plain_counts = _plain_counts(self._signature)
        self._is_self_first = next(iter(self._signature.parameters), "") == "self"
        self._is_method: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
        self._queues: weakref.WeakKeyDictionary[Any, _Queue] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()  #: loops of several threads come and go
        self._wait_ms = _WAIT_MS.labels(self._name)
        self._execution_ms = _EXECUTION_MS.labels(self._name)
        self._utilization = _UTILIZATION.labels(self._name)
        self._actual_size = _SIZE.labels(self._name)
        self._queued = _QUEUED.labels(self._name)
        self._processed = _PROCESSED.labels(self._name)

    def __reduce__(self) -> Any:
        return Batcher, (self._func, self._limits)  # queues stay where their loop is

    # --- adding ---

    def add(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mailbox:
        """Queue one call on the running loop; its results come to the mailbox.

        Raises:
            TypeError: the arguments do not fit the function, or `batch_size_fn` gives no number.
            RuntimeError: this item alone is larger than `max_batch_size`.
            Exception: what `batch_size_fn` raises for this item alone.
        """
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop) or self._new_queue(loop)
        if not self._limits.is_compared:
            self._compare_with_replica()
        item = self._item(args, kwargs, loop.time())
        if self._limits.size_fn is not None:
            self._check_alone(item)
        queue.waiting.append(item)
        note_wait()
        self._start_what_is_due(queue, loop)
        return item.mailbox

    def _item(self, args: tuple[Any, ...], kwargs: dict[str, Any], now: float) -> Item:
        if kwargs or len(args) not in self._plain_counts:
            bound = self._signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        owner: Any = NO_OWNER
        if args and (self._is_self_first or self._belongs_to(args[0])):
            owner, args = args[0], args[1:]
        return Item(owner, args, kwargs, _serve_request_context.get(), now)

    def _belongs_to(self, first: Any) -> bool:
        """Whether `first` is an instance or a class that has this function as a method."""
        kind = first if isinstance(first, type) else type(first)
        known = self._is_method.get(kind)
        if known is None:
            known = any(self._is_within(found) for base in kind.__mro__ for found in vars(base).values())
            self._is_method[kind] = known
        return known

    def _is_within(self, found: Any) -> bool:
        """Whether this is our function, or decorators around it."""
        if isinstance(found, classmethod):
            found = found.__func__
        while (
            isinstance(found, FunctionType) and found is not self._func
        ):  # any other kind may answer anything
            found = getattr(found, "__wrapped__", None)
        return found is self._func

    def _check_alone(self, item: Item) -> None:
        try:
            size = self._size([item])
        except BaseException as error:  # boundary: user code; only its own caller hears of it
            Failure(error, f"The batch_size_fn of {self._name!r}").throw()
        if size > self._limits.size:
            raise RuntimeError(
                f"Size of item is greater than max_batch_size ({self._limits.size}): "
                f"batch_size_fn gives {size:g} for it."
            )

    def _size(self, items: list[Item]) -> float:
        """Return the size of a batch.

        Raises:
            TypeError: `batch_size_fn` gives no number; or whatever it raises.
        """
        if self._limits.size_fn is None:
            return len(items)
        size = self._limits.size_fn([item.first_argument for item in items])
        try:
            return float(size)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The batch_size_fn of {self._name!r} must return a number, not {type(size).__name__!r}."
            ) from error

    def _compare_with_replica(self) -> None:
        """Say so once if the replica never takes as many requests as the batches could."""
        limits, ongoing = self._limits, ongoing_limit()
        if ongoing == 0:
            return
        limits.is_compared = True
        together = limits.size * limits.concurrent
        if limits.size_fn is None and together > ongoing:
            log.warning(
                "Batches of %r take up to %d calls (max_batch_size=%d * max_concurrent_batches=%d), but this replica "
                "takes only max_ongoing_requests=%d at once, so they will not all be full. Raise "
                "max_ongoing_requests, or lower max_batch_size.",
                self._name, together, limits.size, limits.concurrent, ongoing,
            )  # fmt: skip

    # --- gathering ---

    def _gather(self, queue: _Queue) -> None:
        """Move waiting items into the next batch as long as they fit; leave out who has gone."""
        while queue.waiting and not queue.is_cut:
            item = queue.waiting[0]
            if item.mailbox.wants_more and not self._join(queue, item):
                queue.is_cut = True
                return
            queue.waiting.popleft()

    def _join(self, queue: _Queue, item: Item) -> bool:
        """Put the item into the next batch; False if it does not fit."""
        gathered = queue.gathered
        if not gathered:
            queue.max_size = self._limits.size
            queue.due_at = item.arrived + self._limits.wait_s
        if self._limits.size_fn is None:
            size: float = len(gathered) + 1
        else:
            try:
                size = self._size([*gathered, item])
            except BaseException:  # boundary: user code; alone it had a size, so what is disliked is the mix
                size = queue.max_size if not gathered else float("inf")
        if gathered and not size <= queue.max_size:
            return False
        gathered.append(item)
        queue.gathered_size = size
        queue.is_cut = size >= queue.max_size
        return True

    # --- starting ---

    def _start_what_is_due(self, queue: _Queue, loop: asyncio.AbstractEventLoop) -> None:
        """Start full batches as far as there is room, and have a timer for one that is not full."""
        self._gather(queue)
        while queue.is_cut and queue.n_running < self._limits.concurrent:
            self._start(queue, loop)
            self._gather(queue)
        wanted_at = queue.due_at if queue.gathered and queue.n_running < self._limits.concurrent else None
        if wanted_at != queue.timer_at:
            if queue.timer is not None:
                queue.timer.cancel()
            queue.timer = None if wanted_at is None else loop.call_at(wanted_at, self._on_timer, queue)
            queue.timer_at = wanted_at
        self._queued.value = queue.n_queued

    def _on_timer(self, queue: _Queue) -> None:
        queue.timer = queue.timer_at = None
        loop = asyncio.get_running_loop()
        self._start(queue, loop)
        self._start_what_is_due(queue, loop)

    def _start(self, queue: _Queue, loop: asyncio.AbstractEventLoop) -> None:
        """Start the gathered batch, without the callers that have gone and with others in their places."""
        here = [item for item in queue.gathered if item.mailbox.wants_more]
        if len(here) < len(queue.gathered):
            queue.gathered_size *= len(here) / len(queue.gathered)  # about, where sizes differ
            queue.gathered, queue.is_cut = list(here), False
            self._gather(queue)
            if not here and not queue.is_cut:
                return  # nobody of this batch is here any more, and the time of the next one has not come
        items, queue.gathered, queue.is_cut = queue.gathered, [], False
        if items:
            self._wait_ms.observe((loop.time() - items[0].arrived) * 1000)
            self._utilization.observe(100 * queue.gathered_size / queue.max_size)
            self._run(queue, loop, items)

    def _run(self, queue: _Queue, loop: asyncio.AbstractEventLoop, items: list[Item]) -> None:
        """Run a batch: a call for each group of items that can share one, all in one place.

        Each call has a task of its own, outside every request's context. No task group: the callers' loop owns
        nothing that outlives their requests. The queue keeps the tasks, and each caller is woken whichever
        way its task ends.
        """
        groups: dict[tuple[Any, ...], list[Item]] = {}
        for item in items:
            groups.setdefault(item.group, []).append(item)
        queue.n_running += 1
        pending: set[asyncio.Task[None]] = set()
        behind = functools.partial(self._behind, queue)
        for group in groups.values():
            call = Call(self._func, self._name, group, is_stream=self.is_stream, behind=behind)
            self._actual_size.observe(len(group))
            started = loop.time()
            task = loop.create_task(call.run(), context=detached_context())
            pending.add(task)
            queue.calls[task] = started
            task.add_done_callback(functools.partial(self._on_done, queue, call, pending))

    def _on_done(
        self, queue: _Queue, call: Call, pending: set[asyncio.Task[None]], task: asyncio.Task[None]
    ) -> None:
        loop = task.get_loop()
        self._execution_ms.observe((loop.time() - queue.calls.pop(task)) * 1000)
        self._processed.value += 1
        call.finish()
        pending.discard(task)
        if not pending:
            queue.n_running -= 1
            self._start_what_is_due(queue, loop)

    def _behind(self, queue: _Queue) -> Iterable[RequestContext]:
        """Return the requests that cannot go on before one of the running batches has ended."""
        if queue.n_running < self._limits.concurrent:
            return ()
        return [item.context for item in queue.items() if item.mailbox.wants_more]

    # --- loops ---

    def _new_queue(self, loop: asyncio.AbstractEventLoop) -> _Queue:
        with self._lock:
            for other in [known for known in self._queues if known.is_closed()]:
                del self._queues[other]  # unfinished tasks would keep it for ever
            return self._queues.setdefault(loop, _Queue())

    # --- looking in ---

    def start_times(self) -> dict[Any, float]:
        """Return when each running call started, on its loop's clock."""
        with self._lock:
            queues = list(self._queues.values())
        return {task: at for queue in queues for task, at in tuple(queue.calls.items())}

    async def is_alive(self) -> bool:
        """Return True: there is no task that could have died."""
        return True

    async def stacks(self) -> str:
        """Return where the running calls stand, as text."""
        out = io.StringIO()
        for task in self.start_times():
            task.print_stack(file=out)
        return out.getvalue()


def _plain_counts(signature: inspect.Signature) -> range:
    """Return with how many positional arguments a call needs no binding."""
    parameters = signature.parameters.values()
    if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
        return range(0)
    return range(sum(p.default is p.empty for p in parameters), len(parameters) + 1)
