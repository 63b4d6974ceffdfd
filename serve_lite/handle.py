"""Handles: Python objects that send calls to a deployment. What they return is in `responses.py`."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypedDict,
    Unpack,
    overload,
)

import msgspec

from serve_lite.broadcast import BroadcastCall, DeploymentBroadcastResponse
from serve_lite.context import current_request, new_request_id
from serve_lite.instruments import Counter
from serve_lite.responses import (
    DeploymentResponse,
    DeploymentResponseGenerator,
    RequestCounts,
    StreamCall,
    UnaryCall,
)
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.selection import PlaceCall, ReplicaSelection
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import RESERVE, PythonHead

__all__ = [
    "DeploymentBroadcastResponse",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "HandleOptions",
    "RayServeDeploymentHandle",
    "RayServeHandle",
    "RayServeSyncHandle",
    "ReplicaSelection",
]


if TYPE_CHECKING:
    from typing_extensions import TypeVar  # its `default` is for checkers alone

    from serve_lite.legacy_handles import RayServeDeploymentHandle, RayServeHandle, RayServeSyncHandle

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
P = ParamSpec("P")


_LEGACY = frozenset({"RayServeDeploymentHandle", "RayServeHandle", "RayServeSyncHandle"})
_SERIALIZATIONS = ("cloudpickle", "pickle", "msgpack", "orjson")

_requests = Counter(
    "serve_handle_request_counter",
    "Calls made through handles.",
    ("handle", "deployment", "route", "application"),
)


class HandleOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `DeploymentHandle.options` can set."""

    method_name: str = "__call__"
    multiplexed_model_id: str = ""
    session_id: str = ""
    stream: bool = False
    request_serialization: str = "cloudpickle"
    response_serialization: str = "cloudpickle"


class _HasCall:
    """Nothing is one, so a handle to one is a handle to Any: how overloads tell that the target is not known."""


class _OtherOptions(TypedDict, total=False):
    """The options that do not change what a call returns."""

    multiplexed_model_id: str | None
    session_id: str | None
    request_serialization: str | None
    response_serialization: str | None
    use_new_handle_api: bool | None
    _prefer_local_routing: bool | None
    _by_reference: bool | None
    _router_cls: Any


class DeploymentHandle(Generic[T_co]):
    """Sends calls to one deployment: `handle.remote(...)`, `handle.method.remote(...)`.

    Making one connects to nothing; it can be pickled, copied and passed around, and used from any thread and any
    event loop. Any name that is not an attribute of the handle itself is a method of the deployment. Names that
    begin and end with two underscores are not, `__call__` excepted; for those, and for methods that are named
    like an attribute of the handle, there is `options(method_name=...)`.

    `DeploymentHandle[Model]` tells type checkers that the deployment's code is the class `Model`, and
    `DeploymentHandle[Callable[[int], str]]` that calls are like those of such a function. See docs/typing.md.
    """

    def __init__(
        self, deployment_name: str, app_name: str = "default", *, _options: HandleOptions | None = None
    ) -> None:
        self._serve_target = DeploymentId(name=deployment_name, app_name=app_name)
        self._serve_options = _options or HandleOptions()
        self._serve_counts = _counts_of(self._serve_target)
        self._serve_init_options: Mapping[str, Any] | None = None

    @property
    def deployment_name(self) -> str:
        """The deployment that calls go to."""
        return self._serve_target.name

    @property
    def app_name(self) -> str:
        """The application that the deployment belongs to."""
        return self._serve_target.app_name

    @property
    def deployment_id(self) -> DeploymentId:
        """Name of deployment and application."""
        return self._serve_target

    @property
    def handle_options(self) -> HandleOptions:
        """What `options` has set."""
        return self._serve_options

    @property
    def is_initialized(self) -> bool:
        """Whether this process is connected to an instance, so that calls can go out at once."""
        return (caller_runtime.local(self.app_name) or caller_runtime.installed()) is not None

    @property
    def init_options(self) -> Mapping[str, Any] | None:
        """What `_init` was called with; None if it was not."""
        return self._serve_init_options

    @property
    def handle_id(self) -> str:
        """The id of this process's handles to this deployment, which all share one router."""
        return self._serve_counts.handle_id

    @property
    def request_counter(self) -> Counter:
        """The counter of calls, labelled by handle id, deployment, route and application."""
        return _requests

    @overload
    def options(
        self,
        *,
        method_name: Callable[Concatenate[Any, P], R],
        stream: Literal[True],
        **others: Unpack[_OtherOptions],
    ) -> DeploymentStreamHandle[Callable[P, R]]: ...
    @overload
    def options(
        self, *, method_name: str, stream: Literal[True], **others: Unpack[_OtherOptions]
    ) -> DeploymentStreamHandle[Any]: ...
    @overload
    def options(
        self, *, method_name: None = None, stream: Literal[True], **others: Unpack[_OtherOptions]
    ) -> DeploymentStreamHandle[T_co]: ...
    @overload
    def options(
        self,
        *,
        method_name: Callable[Concatenate[Any, P], R],
        stream: Literal[False] | None = None,
        **others: Unpack[_OtherOptions],
    ) -> DeploymentHandle[Callable[P, R]]: ...
    @overload
    def options(
        self, *, method_name: str, stream: Literal[False] | None = None, **others: Unpack[_OtherOptions]
    ) -> DeploymentHandle[Any]: ...
    @overload
    def options(
        self, *, method_name: None = None, stream: None = None, **others: Unpack[_OtherOptions]
    ) -> Self: ...
    @overload
    def options(
        self, *, method_name: None = None, stream: Literal[False], **others: Unpack[_OtherOptions]
    ) -> DeploymentHandle[T_co]: ...
    @overload
    def options(
        self, *, method_name: str | None = None, stream: bool | None = None, **others: Unpack[_OtherOptions]
    ) -> DeploymentHandle[Any]: ...
    def options(
        self,
        *,
        method_name: str | Callable[..., Any] | None = None,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        stream: bool | None = None,
        request_serialization: str | None = None,
        response_serialization: str | None = None,
        use_new_handle_api: bool | None = None,
        _prefer_local_routing: bool | None = None,
        _by_reference: bool | None = None,
        _router_cls: Any = None,
    ) -> Any:
        """Return a handle with these options changed; those not given stay as they are.

        Args:
            method_name: the method's name, or the method itself (`Model.predict`), whose signature type checkers
                then know; "__call__" unless set.
            multiplexed_model_id: the model that calls are for; replicas that have it loaded come first.
            session_id: given to routers that look at it.
            stream: whether the method is a generator whose items are wanted one by one.
            request_serialization, response_serialization: "cloudpickle", "pickle", "msgpack" or "orjson". Values
                are copied by pickle whichever is named, and by cloudpickle where plain pickle cannot.
            use_new_handle_api: False gives the kind of handle that code for Ray 2.7 expects, see
                `legacy_handles.py`; True is what every handle is already.
            _prefer_local_routing, _by_reference, _router_cls: accepted from code written for a cluster, without
                effect: every replica is local and every value is a copy.

        Raises:
            TypeError: an option that there is not.
            ValueError: an unknown serialization.
        """
        given: dict[str, Any] = {
            "method_name": _name_of(method_name),
            "multiplexed_model_id": multiplexed_model_id,
            "session_id": session_id,
            "stream": stream,
            "request_serialization": _checked("request_serialization", request_serialization),
            "response_serialization": _checked("response_serialization", response_serialization),
        }
        changed = msgspec.structs.replace(
            self._serve_options, **{k: v for k, v in given.items() if v is not None}
        )
        kind: type[DeploymentHandle[Any]] = type(self)
        if use_new_handle_api is not None:
            kind = DeploymentHandle if use_new_handle_api else _legacy().older_kind(kind)
        return self._serve_derive(changed, kind)

    # For type checkers: calls take what the target takes (a response in the place of each of the first three
    # values), and async results are unwrapped. The first one is for handles whose target is not known.
    @overload
    def remote(self: DeploymentHandle[_HasCall], *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[P, Awaitable[R]]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[P, R]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[Concatenate[A, P], Awaitable[R]]],
        a: A | DeploymentResponse[A],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[Concatenate[A, P], R]],
        a: A | DeploymentResponse[A],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[Concatenate[A, B, P], Awaitable[R]]],
        a: A | DeploymentResponse[A],
        b: B | DeploymentResponse[B],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[Concatenate[A, B, P], R]],
        a: A | DeploymentResponse[A],
        b: B | DeploymentResponse[B],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[Concatenate[A, B, C, P], Awaitable[R]]],
        a: A | DeploymentResponse[A],
        b: B | DeploymentResponse[B],
        c: C | DeploymentResponse[C],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[Concatenate[A, B, C, P], R]],
        a: A | DeploymentResponse[A],
        b: B | DeploymentResponse[B],
        c: C | DeploymentResponse[C],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> DeploymentResponse[R]: ...
    def remote(self: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # it does accept all
        """Start a call; returns a `DeploymentResponse`, or a `DeploymentResponseGenerator` with `stream=True`.

        Never blocks. What goes wrong is raised when the response is awaited or iterated.

        Raises:
            RayServeException: Serve does not run here.
        """
        runtime = runtime_for(self._serve_target.app_name)
        head = self._serve_head()
        if head.streaming:
            streaming = StreamCall(runtime, self._serve_target, head)
            streaming.counts = self._serve_counts
            generator = DeploymentResponseGenerator(streaming)
            streaming.start(args, kwargs)
            return generator
        unary = UnaryCall(runtime, self._serve_target, head)
        unary.counts = self._serve_counts
        unary.start(args, kwargs)
        return DeploymentResponse(unary)

    def broadcast(
        self, method_name: str | Callable[..., Any], *args: Any, **kwargs: Any
    ) -> DeploymentBroadcastResponse:
        """Call a method on every replica that runs now, whether or not it has room.

        Never blocks. What goes wrong is raised where the results are asked for.

        Raises:
            RayServeException: Serve does not run here.
        """
        runtime = runtime_for(self.app_name)
        head = self._serve_head()
        head.method, head.streaming, head.beyond_limit = _name_of(method_name) or "__call__", False, True
        call = BroadcastCall(runtime, self._serve_target, head)
        call.counts = self._serve_counts
        call.start(args, kwargs)
        return DeploymentBroadcastResponse(call)

    @contextlib.asynccontextmanager
    async def choose_replica(self, *args: Any, **kwargs: Any) -> AsyncIterator[ReplicaSelection]:
        """Choose a replica, keep a place on it while the block runs, and give what `dispatch` needs.

        Waits until a replica has room. Entering raises what a call would raise that finds none.

        Args:
            args, kwargs: shown to a request router of one's own, as if they were those of the call.
        """
        runtime = runtime_for(self.app_name)
        head = self._serve_head()
        head.method, head.streaming, head.slot = RESERVE, True, os.urandom(12).hex()
        call = PlaceCall(runtime, self._serve_target, head)
        place = DeploymentResponseGenerator(call)
        selection = ReplicaSelection(self._serve_target, head.slot)
        call.start(args, kwargs)
        try:
            await anext(place)  # its one item comes once a replica keeps the place
            selection.replica_id = call.replica_id
            yield selection
        finally:
            selection.is_held = False
            await place.aclose()

    def dispatch(self, selection: ReplicaSelection, *args: Any, **kwargs: Any) -> Any:
        """Start a call on a chosen replica, in the place that is kept there; returns what `remote` does.

        A replica that is gone fails the call with ReplicaUnavailableError.

        Raises:
            ValueError: the selection belongs to another deployment.
            RuntimeError: its place was used already, or was given back at the end of the block.
        """
        if selection.deployment_id != self._serve_target:
            raise ValueError(
                f"The selection is of {selection.deployment_id}, but this handle calls {self._serve_target}."
            )
        selection.use()
        runtime = runtime_for(self.app_name)
        head = self._serve_head()
        head.slot = selection.slot
        call: StreamCall | UnaryCall
        response: DeploymentResponse | DeploymentResponseGenerator
        if head.streaming:
            call = StreamCall(runtime, self._serve_target, head)
            response = DeploymentResponseGenerator(call)
        else:
            call = UnaryCall(runtime, self._serve_target, head)
            response = DeploymentResponse(call)
        call.pinned = selection.replica_id
        call.counts = self._serve_counts
        call.start(args, kwargs)
        return response

    def running_replicas_populated(self) -> bool:
        """Whether a replica is known and connected. The first time somebody asks, looking for them begins."""
        runtime = runtime_for(self.app_name)
        routers = runtime.routers
        if routers.find(self.app_name, self.deployment_name) is None:
            runtime.run(routers.get, self.app_name, self.deployment_name)
        router = routers.find(self.app_name, self.deployment_name)
        return router is not None and router.num_replicas > 0

    def shutdown(self) -> None:
        """Does nothing: connections belong to the process, and no handle holds one of its own."""

    async def shutdown_async(self) -> None:
        """Does nothing, as `shutdown`."""

    def _init(self, **init_options: Any) -> None:
        """Connect to the instance now rather than with the first call, and keep `init_options`.

        Raises:
            RuntimeError: called a second time.
            RayServeException: Serve does not run here.
        """
        if self._serve_init_options is not None:
            raise RuntimeError("The handle is initialized already; `_init` may be called once.")
        runtime_for(self.app_name)
        self._serve_init_options = MappingProxyType(init_options)

    def _serve_head(self) -> PythonHead:
        """The envelope of a call: this handle's options, and what is inherited from the current request."""
        options = self._serve_options
        parent = current_request()
        if parent is None:
            return PythonHead(
                options.method_name,
                options.stream,
                new_request_id(),
                0.0,
                self._serve_target.app_name,
                "",
                options.multiplexed_model_id,
                options.session_id,
            )
        return PythonHead(
            options.method_name,
            options.stream,
            parent.request_id or new_request_id(),
            parent.deadline,
            self._serve_target.app_name,
            parent.route,
            options.multiplexed_model_id,
            options.session_id,
            parent.traceparent,
        )

    def _serve_derive(
        self, options: HandleOptions, kind: type[DeploymentHandle[Any]]
    ) -> DeploymentHandle[Any]:
        derived = kind.__new__(kind)
        derived._serve_target = self._serve_target
        derived._serve_options = options
        derived._serve_counts = self._serve_counts
        derived._serve_init_options = self._serve_init_options
        return derived

    def __getattr__(self, name: str) -> DeploymentHandle[Any]:
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            raise AttributeError(name)
        if name.startswith("_serve_"):
            raise AttributeError(f"{name}: use `options(method_name={name!r})` for a method of this name")
        options = msgspec.structs.replace(self._serve_options, method_name=name)
        derived = self.__dict__[name] = self._serve_derive(options, type(self))  # found without us next time
        return derived

    def __reduce__(self) -> Any:
        return _make_handle, (
            self.deployment_name,
            self.app_name,
            msgspec.structs.asdict(self._serve_options),
            type(self),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(deployment='{self.deployment_name}')"


if TYPE_CHECKING:

    class DeploymentStreamHandle(DeploymentHandle[T_co]):
        """A handle with `stream=True`, as type checkers see it: its calls return generators."""

        @overload  # type: ignore[override]  # that a stream is no single response is the point
        def remote(
            self: DeploymentStreamHandle[_HasCall], *args: Any, **kwargs: Any
        ) -> DeploymentResponseGenerator[Any]: ...
        @overload
        def remote(
            self: DeploymentStreamHandle[Callable[P, AsyncIterable[R]]], *args: P.args, **kwargs: P.kwargs
        ) -> DeploymentResponseGenerator[R]: ...
        @overload
        def remote(
            self: DeploymentStreamHandle[Callable[P, Iterable[R]]], *args: P.args, **kwargs: P.kwargs
        ) -> DeploymentResponseGenerator[R]: ...
        @overload
        def remote(
            self: DeploymentStreamHandle[Callable[Concatenate[A, P], AsyncIterable[R]]],
            a: A | DeploymentResponse[A],
            /,
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> DeploymentResponseGenerator[R]: ...
        @overload
        def remote(
            self: DeploymentStreamHandle[Callable[Concatenate[A, P], Iterable[R]]],
            a: A | DeploymentResponse[A],
            /,
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> DeploymentResponseGenerator[R]: ...
        def remote(self: Any, *args: Any, **kwargs: Any) -> Any: ...  # type: ignore[misc]  # as above

        @overload  # type: ignore[override]  # options that say nothing of `stream` keep it
        def options(
            self,
            *,
            method_name: Callable[Concatenate[Any, P], R],
            stream: Literal[True] | None = None,
            **others: Unpack[_OtherOptions],
        ) -> DeploymentStreamHandle[Callable[P, R]]: ...
        @overload
        def options(
            self, *, method_name: str, stream: Literal[True] | None = None, **others: Unpack[_OtherOptions]
        ) -> DeploymentStreamHandle[Any]: ...
        @overload
        def options(
            self,
            *,
            method_name: None = None,
            stream: Literal[True] | None = None,
            **others: Unpack[_OtherOptions],
        ) -> Self: ...
        @overload
        def options(
            self,
            *,
            method_name: Callable[Concatenate[Any, P], R],
            stream: Literal[False],
            **others: Unpack[_OtherOptions],
        ) -> DeploymentHandle[Callable[P, R]]: ...
        @overload
        def options(
            self, *, method_name: None = None, stream: Literal[False], **others: Unpack[_OtherOptions]
        ) -> DeploymentHandle[T_co]: ...
        @overload
        def options(
            self,
            *,
            method_name: str | None = None,
            stream: bool | None = None,
            **others: Unpack[_OtherOptions],
        ) -> DeploymentHandle[Any]: ...
        def options(self, **given: Any) -> Any: ...

        def __getattr__(self, name: str) -> DeploymentStreamHandle[Any]: ...

else:
    DeploymentStreamHandle = DeploymentHandle  #: the name is for annotations


def _name_of(method: str | Callable[..., Any] | None) -> str | None:
    """Return the name under which replicas find a method that was given by name or as a function."""
    if method is None or isinstance(method, str):
        return method
    name = getattr(method, "__name__", None)
    if not callable(method) or not isinstance(name, str) or name == "<lambda>":
        raise TypeError(
            f"method_name must be the name of a method, or a method itself such as Model.predict, not {method!r}."
        )
    return name


def runtime_for(app: str) -> Runtime:
    """Return the runtime that calls to an application go through.

    Raises:
        RayServeException: Serve does not run here.
    """
    runtime = caller_runtime.local(app) or caller_runtime.installed()
    if runtime is None:
        # a handle that arrived in a fresh process finds the instance the way `serve.run` does
        runtime = importlib.import_module("serve_lite.api").connect_handles()
    return runtime


def __getattr__(name: str) -> Any:
    if name in _LEGACY:
        return getattr(_legacy(), name)
    raise AttributeError(f"module 'serve_lite.handle' has no attribute {name!r}")


def _make_handle(
    deployment: str, app: str, options: dict[str, Any], kind: type[DeploymentHandle[Any]] = DeploymentHandle
) -> DeploymentHandle[Any]:
    return kind(deployment, app, _options=HandleOptions(**options))


_counts: dict[DeploymentId, RequestCounts] = {}


def _counts_of(target: DeploymentId) -> RequestCounts:
    """The counts that all handles of this process to one deployment share, as they share its router."""
    counts = _counts.get(target)
    if counts is None:
        counts = _counts.setdefault(target, RequestCounts(_requests, os.urandom(4).hex(), target))
    return counts


def _checked(option: str, value: str | None) -> str | None:
    if value is not None and value not in _SERIALIZATIONS:
        raise ValueError(f"{option} is {value!r}; it must be one of {', '.join(map(repr, _SERIALIZATIONS))}.")
    return value


def _legacy() -> Any:
    """The older kinds of handles, which stand above this module and which new code never loads."""
    return importlib.import_module("serve_lite.legacy_handles")
