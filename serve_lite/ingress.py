"""`@serve.ingress`: a class whose HTTP requests are answered by an ASGI app, FastAPI above all.

The decorated class becomes a subclass of itself that, once constructed in a replica, holds the app in
`_serve_asgi_app`; the replica sends it requests and runs its lifespan. The app is neither copied nor
changed where the class is defined: a replica imports it like the rest of the module, so that late
middleware, locks, pools and `app.state` are what they would be under any ASGI server. How a FastAPI
app's routes come to call the methods of the live instance is told by `views.py`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar, overload

from serve_lite import views
from serve_lite.context import get_replica_context, in_replica
from serve_lite.exceptions import BackPressureError, DeploymentUnavailableError
from serve_lite.shipping import travels_by_reference

C = TypeVar("C", bound=type)

_TRY_AGAIN_LATER = 1013  #: close code of WebSockets (IANA's registry)
LATE_BUILDER = "__serve_build_asgi_app__"


class _IngressDecorator:
    """What `serve.ingress(app)` returns: decorates a class, or makes one when called with none."""

    def __init__(self, source: AppSource) -> None:
        self._source = source

    @overload
    def __call__(self, cls: C) -> C: ...
    @overload
    def __call__(self, cls: None = None) -> type: ...
    def __call__(self, cls: Any = None) -> Any:
        if cls is None:
            return _ingress_class(_Arguments, self._source, name="ASGIIngressDeployment")
        _check_class(cls, self._source)
        if self._source.is_fastapi:
            views.claim(self._source.app, cls)
        return _ingress_class(cls, self._source, name=cls.__name__)


def ingress(app: Any = None) -> _IngressDecorator:
    """Return a decorator that lets an ASGI app answer a class's HTTP requests; below `@serve.deployment`.

    Called without a class, `serve.ingress(app)()`, it makes a class that takes any arguments.

    Args:
        app: a FastAPI app or APIRouter, whose routes may be methods of the class; any other ASGI app, also a
            function of scope, receive and send; a function without parameters that returns an app and is
            called in each replica; or nothing, if the class has a method `__serve_build_asgi_app__` that returns one.

    Raises:
        TypeError: not an app.
        ValueError: used on something that cannot be an ingress.
    """
    frame = sys._getframe(1)
    return _IngressDecorator(AppSource(app, str(frame.f_globals.get("__name__", ""))))


class AppSource:
    """Where a replica gets the ASGI app from. Travels by reference if the app is a module's global."""

    def __init__(self, app: Any, module: str = "") -> None:
        self.app = app
        self._module = module
        self.is_fastapi = views.is_fastapi(app)
        is_function = isinstance(app, types.FunctionType | types.MethodType | functools.partial)
        self.is_builder = is_function and len(_required_parameters(app)) != len(("scope", "receive", "send"))
        if inspect.isclass(app):
            raise TypeError(
                f"serve.ingress needs an app, not the class {app.__name__!r}. Write @serve.ingress(app) above "
                "the class, or @serve.ingress() if the class builds its app itself."
            )
        if app is not None and not callable(app):
            raise TypeError(f"serve.ingress needs an ASGI app, not {app!r}.")
        _refuse_wsgi(app)
        if self.is_builder and _required_parameters(app):
            raise TypeError(
                f"The app builder {getattr(app, '__name__', app)!r} must take no arguments. (An ASGI function takes "
                "three: scope, receive and send.)"
            )

    def __reduce__(self) -> Any:
        name = self._global_name()
        if name is not None:
            return _source_from_module, (self._module, name)
        return AppSource, (self.app, self._module)

    def _global_name(self) -> str | None:
        if self.app is None or not travels_by_reference(self._module):
            return None
        names = vars(sys.modules[self._module])
        return next((name for name, value in names.items() if value is self.app), None)

    def build(self) -> Any:
        """Return the app, or an awaitable of it from an async builder."""
        return self.app() if self.is_builder else self.app


def _source_from_module(module: str, name: str) -> AppSource:
    return AppSource(getattr(importlib.import_module(module), name), module)


def is_ingress(func_or_class: Any) -> bool:
    """Whether `@serve.ingress` was applied."""
    return bool(getattr(func_or_class, "_serve_is_asgi_ingress", False))


def docs_path(func_or_class: Any) -> str | None:
    """Return the path of the interactive documentation, without the route prefix; None if there is none."""
    source = getattr(func_or_class, "_serve_app_source", None)
    return views.docs_path(source.app) if isinstance(source, AppSource) else None


class _Arguments:
    """The class of `serve.ingress(app)()`: keeps its arguments, for the app to find sub-deployments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


# --- making the class ----------------------------------------------------------------------------


def _ingress_class(cls: Any, source: AppSource, *, name: str) -> type:
    """Return the subclass of `cls` that attaches the app after the constructor.

    Its constructor is async only if something that runs in it is, so that the class stays easy to test
    and to subclass.
    """
    late: Any = getattr(cls, LATE_BUILDER, None)
    steps = (cls.__init__, late, source.app if source.is_builder else None)
    is_async = any(inspect.iscoroutinefunction(step) for step in steps)
    init = _async_init(cls, source) if is_async else _sync_init(cls, source)
    namespace: dict[str, Any] = {
        "__init__": functools.wraps(cls.__init__)(init),
        "__call__": _serve_call,
        "__module__": cls.__module__,
        "__qualname__": name if cls is _Arguments else cls.__qualname__,
        "__doc__": cls.__doc__,
        "__wrapped__": cls,
        "_serve_is_asgi_ingress": True,
        "_serve_app_source": source,
        "_serve_docs_path": views.docs_path(source.app),
        "_serve_asgi_app": None,
    }

    def check_subclass(subclass: Any, /, **kwargs: Any) -> None:
        if is_async:
            _refuse_sync_init(subclass)
        if source.is_fastapi:
            views.claim(source.app, subclass)  # the routes that it adds
        super(made, subclass).__init_subclass__(**kwargs)

    namespace["__init_subclass__"] = classmethod(check_subclass)
    made: Any = types.new_class(name, (cls,), {}, lambda body: body.update(namespace))
    return made  # type: ignore[no-any-return]  # a class


def _sync_init(cls: Any, source: AppSource) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  (becomes the class's own)
        cls.__init__(self, *args, **kwargs)
        _attach(self, _built(self, source))

    return __init__


def _async_init(cls: Any, source: AppSource) -> Callable[..., Any]:
    async def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  (becomes the class's own)
        done: Any = cls.__init__(self, *args, **kwargs)
        if inspect.isawaitable(done):
            await done
        app = _built(self, source)
        if inspect.isawaitable(app):
            app = await app
        _attach(self, app)

    return __init__


def _built(instance: Any, source: AppSource) -> Any:
    if in_replica():  # a builder has no other way to the instance
        get_replica_context().servable_object = instance
    late = getattr(instance, LATE_BUILDER, None)
    return source.build() if late is None else late()


def _attach(instance: Any, app: Any) -> None:
    """Give the live instance its app."""
    if not callable(app):
        raise TypeError(f"The app of {type(instance).__name__!r} must be an ASGI app, but it is {app!r}.")
    _refuse_wsgi(app)
    if views.is_fastapi(app):
        app = views.bind_views(app, instance)
    _answer_our_errors(app)
    instance._serve_asgi_app = app
    instance._serve_docs_path = views.docs_path(app)


async def _serve_call(
    self: Any, scope: Any = None, receive: Any = None, send: Any = None, /, *_: Any
) -> None:
    """The ASGI entry."""
    if send is None:
        raise TypeError(
            f"{type(self).__name__!r} answers HTTP by its ASGI app, which takes scope, receive and send. Through a "
            "handle call one of its methods: `handle.method.remote(...)`."
        )
    await self._serve_asgi_app(scope, receive, send)


def _refuse_sync_init(cls: type) -> None:
    """Refuse subclasses whose sync constructor could not await the wrapped one."""
    own = cls.__dict__.get("__init__")
    if own is not None and not inspect.iscoroutinefunction(own):
        raise TypeError(
            f"{cls.__name__}.__init__ must be `async def` and await super().__init__(), because the constructor "
            "of the @serve.ingress class it extends is async."
        )


def _answer_our_errors(app: Any) -> None:
    """Let an app that has exception handlers, and those mounted in it, answer refusals with their own status."""
    handlers = getattr(app, "exception_handlers", None)
    if isinstance(handlers, dict) and hasattr(app, "add_exception_handler"):
        for error in (BackPressureError, DeploymentUnavailableError):
            if not any(known in handlers for known in error.__mro__):
                app.add_exception_handler(error, _refusal)
    for route in getattr(app, "routes", None) or ():
        if hasattr(getattr(route, "app", None), "exception_handlers"):
            _answer_our_errors(route.app)


async def _refusal(connection: Any, error: Exception) -> Any:
    from starlette.responses import PlainTextResponse  # lazy: only apps that have Starlette loaded come here

    if connection.scope["type"] == "websocket":
        await connection.close(_TRY_AGAIN_LATER, "the deployment behind it has no room")
        return None
    headers = {}
    if getattr(error, "retry_after_s", None) is not None:
        headers["retry-after"] = str(int(-(-error.retry_after_s // 1)))  # type: ignore[attr-defined]  # just seen
    return PlainTextResponse(str(error), status_code=getattr(error, "status_code", 503), headers=headers)


# --- checks --------------------------------------------------------------------------------------


def _check_class(cls: Any, source: AppSource) -> None:
    if hasattr(cls, "func_or_class"):
        raise ValueError(f"{cls!r} is a deployment already: put @serve.deployment above @serve.ingress.")
    if not inspect.isclass(cls):
        raise ValueError(f"@serve.ingress must be used with a class, not with {cls!r}.")
    for base in cls.__mro__:
        own = base.__dict__.get("__call__")
        if own is not None and own is not _serve_call:
            raise ValueError(
                f"Class {cls.__name__!r} defines __call__, but with @serve.ingress the app answers requests. "
                "Rename the method or remove the decorator."
            )
    if source.app is None and not hasattr(cls, LATE_BUILDER):
        raise ValueError(
            f"@serve.ingress() without an app needs the method {LATE_BUILDER} in {cls.__name__!r}."
        )


def _refuse_wsgi(app: Any) -> None:
    """Refuse an app that takes `environ` and `start_response`: every request of it would fail.

    An adapter of ours would hide how many threads it has and what it holds in memory, which users must choose.
    """
    try:
        is_wsgi = not inspect.iscoroutinefunction(app) and len(_required_parameters(app)) == len(
            ("environ", "start_response")
        )
    except (TypeError, ValueError):  # it does not tell its parameters
        return
    if is_wsgi:
        raise TypeError(
            f"serve.ingress needs an ASGI app, and {app!r} looks like a WSGI app (it takes two arguments, environ and "
            "start_response). Install a2wsgi and write `serve.ingress(a2wsgi.WSGIMiddleware(app, workers=10))`, with "
            "as many workers (threads) as requests may run at once in a replica."
        )


def _required_parameters(function: Callable[..., Any]) -> list[str]:
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
