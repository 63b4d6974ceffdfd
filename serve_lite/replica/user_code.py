"""The user's class or function: building it, finding its methods, calling them.

Async code runs on the replica's loop, sync handlers in worker threads; constructor, reconfigure and
destructor run on the loop's thread, so that they may start tasks there.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serve_lite.config import DeploymentConfig
from serve_lite.exceptions import RayServeException


class Method:
    """One method of the user's object, with what is known of it without calling it."""

    __slots__ = ("function", "in_thread", "name", "takes_request")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.in_thread = _is_plain_sync(function)
        self.takes_request = _takes_an_argument(function)


class UserCode:
    """The one instance that this replica serves.

    Lifetime: `build`, then calls, then `destroy`.
    """

    def __init__(self, func_or_class: Callable[..., Any], config: DeploymentConfig) -> None:
        self._source = func_or_class
        self.instance: Any = None
        self._methods: dict[str, Method] = {}
        threads = 1 if config.serialize_sync else config.sync_threads or min(config.max_ongoing_requests, 5)
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
        assert inspect.isclass(self._source)
        instance = self._source.__new__(self._source)
        built = type(instance).__init__(instance, *args, **kwargs)
        if inspect.isawaitable(built):
            await built
        self.instance = instance
        return instance

    def method(self, name: str) -> Method:
        """Return a method by name.

        Raises:
            RayServeException: there is none; the message lists those there are.
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
        work = self._threads.submit(context.run, functools.partial(function, *args, **kwargs))
        future = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not work.cancel():
                await asyncio.wait([future])  # ends with the thread
                if not future.cancelled():
                    future.exception()  # seen; nobody is left to hear it
            raise

    async def reconfigure(self, user_config: Any) -> None:
        """Give the user's `reconfigure` the new config.

        Raises:
            RayServeException, ValueError: there is no such method; or whatever it raises.
        """
        if self.is_function:
            raise ValueError(
                "`user_config` needs a class with a `reconfigure` method; this deployment is a function."
            )
        hook = getattr(self.instance, "reconfigure", None)
        if hook is None:
            raise RayServeException(
                f"`user_config` is given but deployment {type(self.instance).__name__!r} has no "
                "`reconfigure(user_config)` method."
            )
        result = hook(user_config)
        if inspect.isawaitable(result):
            await result

    async def check_health(self) -> None:
        """Run the user's `check_health` if there is one; whatever it raises means unhealthy.

        A sync one gets a thread of its own: handlers that keep all of theirs busy are no reason to be ill.
        """
        hook = None if self.is_function else getattr(self.instance, "check_health", None)
        if hook is None:
            return
        if inspect.iscoroutinefunction(hook):
            await hook()
        else:
            result = await asyncio.to_thread(hook)
            if inspect.isawaitable(result):
                await result

    async def destroy(self) -> None:
        """Call the destructor once; then drop the instance and the threads."""
        instance, self.instance = self.instance, None
        self._methods.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.is_function or instance is None:
            return
        destructor = getattr(type(instance), "__del__", None)
        if destructor is None:
            return
        result = destructor(instance)
        type(instance).__del__ = _nothing  # the interpreter would call it a second time
        if inspect.isawaitable(result):
            await result

    def _find(self, name: str) -> Method:
        if self.is_function and name == "__call__":
            return Method(name, self.instance)
        function = None if self.is_function else getattr(self.instance, name, None)
        if not callable(function):
            source: Any = self.instance
            known = (
                []
                if self.is_function
                else [n for n in dir(source) if not n.startswith("_") and callable(getattr(source, n, None))]
            )
            raise RayServeException(
                f"Tried to call a method '{name}' that does not exist. Available methods: {sorted(known)}."
            )
        if name == "__call__":
            function = type(self.instance).__call__.__get__(
                self.instance
            )  # a method, so that it can be looked at
        return Method(name, function)


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


def _nothing(_: object) -> None:
    """Stands where a destructor was that has run."""
