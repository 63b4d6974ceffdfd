"""`@serve.batch`: calls that arrive close together run as one call with lists.

Works anywhere with a running event loop, in a replica or not; each loop has batches of its own. Here are the
decorator and what a caller does; `batches/` has the rest.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, cast, overload

from serve_lite.batched import A, B, BatchDecorator, Batched, BatchedMethod, O, R
from serve_lite.batches.queue import Batcher, Limits


@overload
def batch(
    _func: Callable[[list[A]], Coroutine[Any, Any, Iterable[R]]], /
) -> Batched[[A], Coroutine[Any, Any, R]]: ...
@overload
def batch(_func: Callable[[list[A]], AsyncIterable[Iterable[R]]], /) -> Batched[[A], AsyncIterator[R]]: ...
@overload
def batch(
    _func: Callable[[list[A], list[B]], Coroutine[Any, Any, Iterable[R]]], /
) -> Batched[[A, B], Coroutine[Any, Any, R]]: ...
@overload
def batch(
    _func: Callable[[list[A], list[B]], AsyncIterable[Iterable[R]]], /
) -> Batched[[A, B], AsyncIterator[R]]: ...
@overload
def batch(
    _func: Callable[[O, list[A]], Coroutine[Any, Any, Iterable[R]]], /
) -> BatchedMethod[O, [A], Coroutine[Any, Any, R]]: ...
@overload
def batch(
    _func: Callable[[O, list[A]], AsyncIterable[Iterable[R]]], /
) -> BatchedMethod[O, [A], AsyncIterator[R]]: ...
@overload
def batch(
    _func: Callable[[O, list[A], list[B]], Coroutine[Any, Any, Iterable[R]]], /
) -> BatchedMethod[O, [A, B], Coroutine[Any, Any, R]]: ...
@overload
def batch(
    _func: Callable[[O, list[A], list[B]], AsyncIterable[Iterable[R]]], /
) -> BatchedMethod[O, [A, B], AsyncIterator[R]]: ...
@overload
def batch(_func: Callable[..., Any], /) -> Batched[..., Any]: ...
@overload
def batch(
    _func: None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> BatchDecorator: ...
def batch(
    _func: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Any:
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
    limits = Limits(max_batch_size, batch_wait_timeout_s, max_concurrent_batches, batch_size_fn)

    def decorate(func: Callable[..., Any]) -> Batched[..., Any]:
        if not _is_async(func):
            raise TypeError(
                f"Functions decorated with @serve.batch must be 'async def', but {func!r} is not."
            )
        return _wrap(func, limits.copy())

    if _func is None:
        return decorate
    if not callable(_func):
        raise TypeError(f"@serve.batch must be used on an async function, not on {_func!r}.")
    return decorate(_func)


def _is_async(func: Any) -> bool:
    """Whether it is an async function or generator, or a decorator's wrapper around one."""
    inner = inspect.unwrap(func) if callable(func) else func
    return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)


def _wrap(func: Callable[..., Any], limits: Limits) -> Batched[..., Any]:
    """Return the function that callers see."""
    batcher = Batcher(func, limits)
    if batcher.is_stream:

        @functools.wraps(func)
        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            for request in _requests(args, kwargs):
                await request.body()
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
            for request in _requests(args, kwargs):
                await request.body()
            return await batcher.add(args, kwargs).value()

        wrapper = unary
    wrapper.set_max_batch_size = limits.set_max_batch_size
    wrapper.set_batch_wait_timeout_s = limits.set_batch_wait_timeout_s
    wrapper._get_max_batch_size = lambda: limits.size
    wrapper._get_batch_wait_timeout_s = lambda: limits.wait_s
    wrapper._get_curr_iteration_start_times = batcher.start_times
    wrapper._is_batching_task_alive = batcher.is_alive
    wrapper._get_handling_task_stack = batcher.stacks
    return cast("Batched[..., Any]", wrapper)


def _requests(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the Starlette requests among the arguments whose body nobody has read yet.

    A request joins a batch when its body has come, and the body stays readable on it: one client that uploads
    slowly, or goes away meanwhile, holds up and breaks only its own call and not those of the others.
    """
    starlette = sys.modules.get("starlette.requests")  # where it was never imported nothing can be one
    if starlette is None:
        return []
    return [
        value
        for value in (*args, *kwargs.values())
        if isinstance(value, starlette.Request) and not getattr(value, "_stream_consumed", False)
    ]
