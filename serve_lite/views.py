"""FastAPI routes that are methods of a class: they call the one live instance.

FastAPI sees a method before there is an instance and takes `self` for a query parameter. In a replica,
once the instance exists, `bind_views` puts a route with the bound method in the place of each such
route: same path, options, order and position in included routers; FastAPI then finds the right
parameters by itself and nothing is added to the cost of a request. Routes that are methods of another
`@serve.ingress` class on the same app are removed.

Older FastAPI flattens included routers, 0.137 and later nest them; both are walked. FastAPI is never
imported from here: an app of it can only exist where it is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from serve_lite.exceptions import RayServeException

_MARK = "_serve_view"  # on functions that are routes of some @serve.ingress class


def is_fastapi(app: Any) -> bool:
    """Whether this is a FastAPI app or an APIRouter."""
    fastapi = sys.modules.get("fastapi")
    return fastapi is not None and isinstance(app, fastapi.FastAPI | fastapi.APIRouter)


def docs_path(app: Any) -> str | None:
    """Return where a FastAPI app shows its documentation; None for other apps."""
    return app.docs_url if is_fastapi(app) and getattr(app, "openapi_url", None) else None


def claim(app: Any, cls: type) -> None:
    """Mark the routes that are methods of `cls`, so that other classes on the same app leave them out.

    Raises:
        RayServeException: such a method has no `self`.
    """
    for endpoint in _endpoints(app.routes):
        if not _is_method_of(endpoint, cls):
            continue
        if (
            not isinstance(_attribute(cls, endpoint), staticmethod)
            and not inspect.signature(endpoint).parameters
        ):
            raise RayServeException(
                f"Methods in a FastAPI class-based view must have self as their first argument; "
                f"{endpoint.__qualname__!r} has no parameter."
            )
        setattr(endpoint, _MARK, True)


_BEFORE = "_serve_routes_before"  # on apps that were changed: the route lists they had


def bind_views(app: Any, instance: Any) -> Any:
    """Return the app with the instance's routes bound to it and other classes' routes removed.

    The app itself is changed, so that everything that refers to it (a custom `openapi`, instrumentation,
    `url_path_for`) agrees. A second instance in one process, as in tests, gets a copy.
    """
    before = vars(app).get(_BEFORE)
    binder = _Binder(instance, before)
    if before is None:
        setattr(app, _BEFORE, binder.before)
    return binder.app(app) if hasattr(app, "router") else _standalone(binder.router(app))


class _Binder:
    """Walks the route tree of one app for one instance.

    Args:
        before: the route lists of an app that was changed already: then everything changed is a copy.
    """

    def __init__(self, instance: Any, before: dict[int, list[Any]] | None) -> None:
        self._instance = instance
        self._copies = before is not None
        self._routers: dict[int, Any] = {}
        self.before = {} if before is None else before

    def app(self, app: Any) -> Any:
        result = self._copied(app) if self._copies else app
        result.router = self.router(app.router)
        result.middleware_stack = None  # built at the first request, from then on with these routes
        if self._copies:
            result.openapi_schema = None
            _renew_docs(app, result)
        return result

    def router(self, router: Any) -> Any:
        known = self._routers.get(id(router))
        if known is not None:
            return known
        result = self._copied(router) if self._copies else router
        self._routers[id(router)] = result
        original = self.before.setdefault(id(router), list(router.routes))
        bound = [new for route in original if (new := self._route(route)) is not None]
        if self._copies:
            result.routes = bound
        else:
            router.routes[:] = bound
        mark_changed = getattr(result, "_mark_routes_changed", None)
        if mark_changed is not None:
            mark_changed()  # FastAPI >= 0.137 keeps what it derived from the routes
        return result

    def _route(self, route: Any) -> Any:
        """Return what stands in the place of `route`; None for nothing."""
        endpoint = getattr(route, "endpoint", None)
        if _is_api_route(route):
            cls = type(self._instance)
            if not _is_method_of(endpoint, cls):
                return None if getattr(endpoint, _MARK, False) else route
            if isinstance(_attribute(cls, endpoint), staticmethod):
                return route
            return None if _is_outdated(endpoint, cls) else self._bound(route)
        nested = getattr(route, "original_router", None)
        if nested is not None and dataclasses.is_dataclass(route):
            return self._included(route, nested)
        mounted = getattr(route, "app", None)
        if is_fastapi(mounted) and hasattr(route, "routes"):
            return self._mounted(route, mounted)
        return route

    def _bound(self, route: Any) -> Any:
        """Return a route like this one that calls the method of the instance."""
        base = _route_class(route)
        options = {
            name: getattr(route, name)
            for name in inspect.signature(base.__init__).parameters
            if name not in ("self", "path", "endpoint") and hasattr(route, name)
        }
        if getattr(route, "is_json_stream", False) or getattr(route, "is_sse_stream", False):
            options.pop("response_model", None)  # FastAPI takes the item type from the annotation again
        method = self._method(route.endpoint)
        result = type(route)(route.path, method, **options)
        for name, value in vars(route).items():
            vars(result).setdefault(name, value)  # what others have put on the route
        return result

    def _method(self, endpoint: Any) -> Any:
        cls = type(self._instance)
        if isinstance(_attribute(cls, endpoint), classmethod):
            return types.MethodType(endpoint, cls)
        return types.MethodType(endpoint, self._instance)

    def _included(self, route: Any, nested: Any) -> Any:
        router = self.router(nested)
        if router is nested:
            return route
        context = dataclasses.replace(route.include_context, included_router=router)
        return type(route)(original_router=router, include_context=context)

    def _mounted(self, route: Any, mounted: Any) -> Any:
        app = self.app(mounted) if hasattr(mounted, "router") else self.router(mounted)
        if app is mounted:
            return route
        result = copy.copy(route)
        result.app = app
        return result

    def _copied(self, owner: Any) -> Any:
        """Return a shallow copy whose own bound methods are bound to the copy."""
        result = copy.copy(owner)
        for name, value in vars(result).items():
            if isinstance(value, types.MethodType) and value.__self__ is owner:
                setattr(result, name, types.MethodType(value.__func__, result))
        return result


def _renew_docs(app: Any, result: Any) -> None:
    """Let the documentation routes of a copied app show the copy instead of the app."""
    routes = result.router.routes
    places = {r.path: i for i, r in enumerate(routes) if _closes_over(getattr(r, "endpoint", None), app)}
    count = len(routes)
    result.setup()
    added = routes[count:]
    del routes[count:]
    for route in added:
        if route.path in places:
            routes[places[route.path]] = route


def _closes_over(function: Any, value: Any) -> bool:
    return any(cell.cell_contents is value for cell in getattr(function, "__closure__", None) or ())


def _standalone(router: Any) -> Any:
    """Return an app for a bare APIRouter: some of what its routes need only an app sets up."""
    fastapi = sys.modules["fastapi"]
    app = fastapi.FastAPI(openapi_url=None)
    app.include_router(router)
    return app


def _is_api_route(route: Any) -> bool:
    return _route_class(route) is not None


def _route_class(route: Any) -> Any:
    routing = sys.modules["fastapi.routing"]
    for base in (routing.APIRoute, routing.APIWebSocketRoute):
        if isinstance(route, base):
            return base
    return None


def _endpoints(routes: Any) -> Iterator[Any]:
    """Yield the endpoint of every FastAPI route, in nested routers and mounted apps too."""
    for route in routes:
        if _is_api_route(route):
            yield route.endpoint
        elif (nested := getattr(route, "original_router", None)) is not None:
            yield from _endpoints(nested.routes)
        else:
            mounted: Any = getattr(route, "app", None)
            if is_fastapi(mounted):
                yield from _endpoints(mounted.routes)


def _is_method_of(endpoint: Any, cls: type) -> bool:
    """Whether the function was defined in the body of `cls` or of one of its bases."""
    if _attribute(cls, endpoint) is not None:
        return True  # a class that travelled by value has lost what its qualified name began with
    owner = getattr(endpoint, "__qualname__", "").rpartition(".")[0]
    module = getattr(endpoint, "__module__", None)
    return any(owner == base.__qualname__ and module == base.__module__ for base in cls.__mro__)


def _is_outdated(endpoint: Any, cls: type) -> bool:
    """Whether a class of the same name has been defined again since, as in a notebook."""
    return _attribute(cls, endpoint) is None and _stands_in_class(endpoint, cls)


def _attribute(cls: type, endpoint: Any) -> Any:
    """Return what holds this very function, wrapped or not, in `cls` or in one of its bases; None if nothing does."""
    for base in cls.__mro__:
        for held in vars(base).values():
            now = held
            while now is not endpoint and isinstance(now, types.FunctionType | staticmethod | classmethod):
                now = getattr(now, "__wrapped__", None)
            if now is endpoint:
                return held
    return None


def _stands_in_class(endpoint: Any, cls: type) -> bool:
    """Whether the class now has another plain function under this name, with the same definition name."""
    now = getattr(cls, endpoint.__name__, None)
    return inspect.isfunction(now) and now.__qualname__ == endpoint.__qualname__
