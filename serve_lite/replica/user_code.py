"""The user's class or function: building it, finding its methods, calling them.

Async code runs on the replica's loop, sync handlers in worker threads; constructor, reconfigure and
destructor run on the loop's thread, so that they may start tasks there.

Besides its handlers a class may have hooks, found once by their names: `reconfigure`, `check_health`,
`record_replica_metadata`, `record_routing_stats`, `record_autoscaling_stats`. Each may be async.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import numbers
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import CodeType
from typing import Any

import serve_lite
from serve_lite.config import DeploymentConfig
from serve_lite.context import get_replica_context, in_replica
from serve_lite.exceptions import RayServeException, UnknownMethodError

log = logging.getLogger("serve_lite.replica")

_OUR_CODE = os.path.dirname(os.path.abspath(serve_lite.__file__)) + os.sep
_HOOKS = (
    "reconfigure", "check_health", "record_replica_metadata", "record_routing_stats", "record_autoscaling_stats",
)  # fmt: skip


def called_exit(error: SystemExit) -> RayServeException:
    """Return what to tell of a `sys.exit` in user code: nothing else would say where it was."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not f.filename.startswith(_OUR_CODE)]
    where = f" (at {theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return RayServeException(f"user code ended the process by SystemExit: {error.code}{where}")


class WrongStatsError(TypeError):
    """A hook returned something else than it must."""


class Method:
    """One method of the user's object, with what is known of it without calling it."""

    __slots__ = ("function", "in_thread", "name", "takes_grpc_context", "takes_request")

    def __init__(self, name: str, function: Callable[..., Any], *, in_thread: bool) -> None:
        self.name = name
        self.function = function
        self.in_thread = in_thread
        self.takes_request = _takes_an_argument(function)
        self.takes_grpc_context = _has_parameter(function, "grpc_context")


class UserCode:
    """The one instance that this replica serves.

    Lifetime: `build`, then calls, then `destroy`.

    Args:
        sync_on_loop: run sync handlers on the loop, where each holds up everything else, instead of in threads.
    """

    def __init__(
        self, func_or_class: Callable[..., Any], config: DeploymentConfig, *, sync_on_loop: bool = False
    ) -> None:
        self._source = func_or_class
        self.instance: Any = None
        self.metadata: dict[str, Any] | None = None  #: what `record_replica_metadata` returned
        self._hooks: dict[str, Callable[..., Any]] = {}
        self._methods: dict[str, Method] = {}
        self._sync_on_loop = sync_on_loop
        self._has_warned = False
        one_by_one = config.serialize_sync or sync_on_loop
        #: threads for sync code that the user asked for; None: our choice for handlers, the framework's for an app
        self.threads_wanted = 1 if one_by_one else config.sync_threads
        threads = self.threads_wanted or min(config.max_ongoing_requests, 5)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="serve-sync")

    @property
    def is_function(self) -> bool:
        """A function deployment has no state, no hooks, and is its own only method."""
        return not inspect.isclass(self._source)

    async def build(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the constructor on the loop, inside a coroutine, and await it if it is async."""
        if self.is_function:
            self.instance = self._source
            return self.instance
        source: Any = self._source
        if source.__new__ is object.__new__:
            instance = source.__new__(source)
        else:
            instance = source.__new__(source, *args, **kwargs)
        built = type(instance).__init__(instance, *args, **kwargs)
        if inspect.isawaitable(built):
            await built
        self.instance = instance
        found = ((name, getattr(instance, name, None)) for name in _HOOKS)
        self._hooks = {name: hook for name, hook in found if callable(hook)}
        return instance

    def method(self, name: str) -> Method:
        """Return a method by name.

        Raises:
            UnknownMethodError: there is none; the message lists those there are.
        """
        found = self._methods.get(name)
        if found is None:
            found = self._methods[name] = self._find(name)
        return found

    async def call(self, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method where it belongs and return what it returns; awaitables are awaited."""
        if method.in_thread:
            result = await self.in_thread(method.function, *args, **kwargs)
        else:
            result = method.function(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        return result

    async def in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run sync code in a worker thread with the caller's context.

        If cancelled, waits until the thread has really ended before it lets the cancellation through:
        the request's slot is occupied so long.
        """
        context = contextvars.copy_context()
        work = self._threads.submit(context.run, _call, functools.partial(function, *args, **kwargs))
        future = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not work.cancel():
                await asyncio.wait([future])  # ends with the thread
                if not future.cancelled():
                    future.exception()  # seen; nobody is left to hear it
            raise

    async def record_metadata(self) -> None:
        """Ask the user's `record_replica_metadata`, once; `metadata` has its answer.

        Raises:
            TypeError: it returned neither a dict nor None; or whatever it raises.
        """
        hook = self._hooks.get("record_replica_metadata")
        if hook is None:
            return
        metadata = hook()
        if inspect.isawaitable(metadata):
            metadata = await metadata
        if metadata is not None and not isinstance(metadata, dict):
            raise TypeError(_wrong_answer("record_replica_metadata", "a dict or None", metadata))
        self.metadata = metadata

    async def reconfigure(self, user_config: Any) -> None:
        """Give the user's `reconfigure` the new config, and the replica's rank if it has a parameter `rank`.

        Does nothing for None, unless the method wants the rank.

        Raises:
            RayServeException, ValueError: there is no such method; or whatever it raises.
        """
        hook = self._hooks.get("reconfigure")
        if hook is None and user_config is None:
            return
        if self.is_function:
            raise ValueError(
                "`user_config` needs a class with a `reconfigure` method; this deployment is a function."
            )
        if hook is None:
            raise RayServeException(
                f"`user_config` is given but deployment {type(self.instance).__name__!r} has no "
                "`reconfigure(user_config)` method."
            )
        if _has_parameter(hook, "rank"):
            result = hook(user_config, rank=get_replica_context().rank)
        elif user_config is not None:
            result = hook(user_config)
        else:
            return
        if inspect.isawaitable(result):
            await result

    async def check_health(self) -> None:
        """Run the user's `check_health` if there is one; whatever it raises means unhealthy."""
        if (hook := self._hooks.get("check_health")) is not None:
            await _ask(hook)

    async def check_health_within(self, timeout_s: float) -> None:
        """The same, with an end.

        Raises:
            RayServeException: there was no answer in time; says where the check stands.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self.check_health()
        except TimeoutError as error:
            if not limit.expired():
                raise  # the user's own
            code = getattr(inspect.unwrap(self._hooks["check_health"]), "__code__", None)
            where = _line_in(code, error.__cause__) or _line_of_threads(code)
            raise RayServeException(
                f"`check_health` gave no answer within {timeout_s:g} s (health_check_timeout_s)"
                + (f"; it was at {where}" if where else "")
            ) from error

    @property
    def has_health_check(self) -> bool:
        """Whether the user has a health check."""
        return "check_health" in self._hooks

    @property
    def has_reconfigure(self) -> bool:
        """Whether the user has a `reconfigure`."""
        return "reconfigure" in self._hooks

    @property
    def wants_rank(self) -> bool:
        """Whether the user's `reconfigure` is to hear of another rank."""
        hook = self._hooks.get("reconfigure")
        return hook is not None and _has_parameter(hook, "rank")

    @property
    def has_routing_stats(self) -> bool:
        """Whether there is something to poll for `routing_stats`."""
        return "record_routing_stats" in self._hooks

    @property
    def has_autoscaling_stats(self) -> bool:
        """Whether there is something to poll for `autoscaling_stats`."""
        return "record_autoscaling_stats" in self._hooks

    async def routing_stats(self) -> dict[str, Any] | None:
        """Return what the user's `record_routing_stats` says now; None if there is no such method.

        Raises:
            TypeError: it returned no dict; or whatever it raises.
        """
        hook = self._hooks.get("record_routing_stats")
        if hook is None:
            return None
        stats = await _ask(hook)
        if not isinstance(stats, dict):
            raise TypeError(_wrong_answer("record_routing_stats", "a dict", stats))
        return stats

    async def autoscaling_stats(self) -> dict[str, float] | None:
        """Return what the user's `record_autoscaling_stats` says now; None if there is no such method.

        Raises:
            WrongStatsError: it returned something else than a dict of names and numbers; or whatever it raises.
        """
        hook = self._hooks.get("record_autoscaling_stats")
        if hook is None:
            return None
        stats = await _ask(hook)
        if not isinstance(stats, dict):
            raise WrongStatsError(
                _wrong_answer("record_autoscaling_stats", "a dict of names and numbers", stats)
            )
        for name, value in stats.items():
            if not isinstance(name, str) or not isinstance(value, numbers.Real):
                raise WrongStatsError(
                    "`record_autoscaling_stats` must return a dict of names and numbers, but it holds "
                    f"{name!r}: {value!r}."
                )
        return {name: value if type(value) is int else float(value) for name, value in stats.items()}

    async def destroy(self) -> None:
        """Call the destructor once; then drop the instance and the threads."""
        instance, self.instance = self.instance, None
        self._methods.clear()
        self._hooks.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.is_function or instance is None:
            return
        destructor = getattr(type(instance), "__del__", None)
        if destructor is None:
            return
        try:
            result = destructor(instance)
        finally:
            _never_again(instance)  # the interpreter would call it a second time
        if inspect.isawaitable(result):
            await result

    def _find(self, name: str) -> Method:
        if self.is_function and name == "__call__":
            return self._made(name, self.instance)
        function = None if self.is_function else getattr(self.instance, name, None)
        if not callable(function):
            source: Any = self.instance
            known = (
                []
                if self.is_function
                else [n for n in dir(source) if not n.startswith("_") and callable(getattr(source, n, None))]
            )
            here = get_replica_context() if in_replica() else None
            raise UnknownMethodError(
                name,
                sorted(known),
                here.replica_id.full_tag if here is not None else "",
                here.code_version if here is not None else "",
            )
        if name == "__call__":
            function = type(self.instance).__call__.__get__(
                self.instance
            )  # a method, so that it can be looked at
        return self._made(name, function)

    def _made(self, name: str, function: Callable[..., Any]) -> Method:
        is_sync = _is_plain_sync(function)
        if is_sync and self._sync_on_loop and not self._has_warned:
            self._has_warned = True
            log.warning(
                "sync method %r runs on the event loop (RAY_SERVE_RUN_SYNC_IN_THREADPOOL=0): one call at a time, "
                "and nothing else meanwhile, health checks included",
                name,
            )
        return Method(name, function, in_thread=is_sync and not self._sync_on_loop)


def _call(function: Callable[[], Any]) -> Any:
    """Call a function in a thread."""
    try:
        return function()
    except StopIteration as stop:  # no future can carry it, and its caller would wait for ever
        raise RuntimeError("sync code raised StopIteration") from stop


def _is_plain_sync(function: Callable[..., Any]) -> bool:
    """Whether calling it may block: a function or method that is neither async nor a generator.

    A decorator's sync wrapper around an async function is called on the loop, where its awaitable belongs.
    """
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return False
    inner = inspect.unwrap(function)
    return not (
        inspect.iscoroutinefunction(inner)
        or inspect.isasyncgenfunction(inner)
        or inspect.isgeneratorfunction(inner)
    )


def _takes_an_argument(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD for p in parameters)


async def _ask(hook: Callable[[], Any]) -> Any:
    """Call a hook while requests run.

    A sync one gets a thread of its own: handlers that keep all of theirs busy are no reason to be ill.
    """
    if inspect.iscoroutinefunction(hook):
        return await hook()
    answer = await asyncio.to_thread(hook)
    return await answer if inspect.isawaitable(answer) else answer


def _line_in(code: CodeType | None, error: BaseException | None) -> str:
    """Return `file:line` where a function was when it was interrupted; "" if it was not in there."""
    for frame, line in traceback.walk_tb(error.__traceback__ if error is not None else None):
        if frame.f_code is code:
            return f"{frame.f_code.co_filename}:{line}"
    return ""


def _line_of_threads(code: CodeType | None) -> str:
    """Return `file:line` where a function is in some thread now; "" if it is in none."""
    for innermost in sys._current_frames().values():
        for frame, line in traceback.walk_stack(innermost):
            if frame.f_code is code:
                return f"{frame.f_code.co_filename}:{line}"
    return ""


def _has_parameter(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # C code tells no signature
        return False


def _wrong_answer(hook: str, right: str, answer: object) -> str:
    return f"`{hook}` must return {right}, but it returned {type(answer).__name__!r}: {answer!r}."


_destroyed: set[int] = set()  #: ids of instances whose destructor has run; each is alive while it is in here


def _never_again(instance: Any) -> None:
    """Keep the interpreter from calling this instance's destructor; others of its class keep theirs."""
    kind = type(instance)
    destructor = kind.__del__
    _destroyed.add(id(instance))
    if getattr(destructor, "_serve_runs_once", False):
        return

    @functools.wraps(destructor)
    def once(self: Any) -> Any:
        if id(self) in _destroyed:
            _destroyed.discard(id(self))
            return None
        return destructor(self)

    once._serve_runs_once = True  # type: ignore[attr-defined]  # a mark
    kind.__del__ = once
