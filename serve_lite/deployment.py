"""`@serve.deployment`: a class or function plus its options, and `bind`, which makes an application of it.

A `Deployment` is a blueprint and never changes; `.options()` gives another one. An `Application` is a
deployment with constructor arguments, among which may be other Applications. Turning that graph into
data is `graph.py`'s work; what each option may be is told by `options.py`.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypedDict, Unpack, overload

from serve_lite import checks
from serve_lite.config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentConfig,
    LoggingConfig,
    OutlierEjection,
    RequestRouterConfig,
)
from serve_lite.exceptions import InvalidConfigError
from serve_lite.options import apply_overrides, canonical, scaling_advice
from serve_lite.shipping import dump_code, dump_init

if TYPE_CHECKING:
    from abc import ABCMeta

    from typing_extensions import TypeVar  # its `default` is for checkers alone

    T_co = TypeVar("T_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Default(enum.Enum):
    """Stands for "not given", which is not the same as giving the default."""

    VALUE = 1

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default.VALUE

#: What 2.7's deployments could do, with what does it now.
_OF_2_7 = {
    "deploy": "use serve.run(this.bind(...))",
    "delete": "use serve.delete(application)",
    "get_handle": "use serve.get_deployment_handle(name, application)",
    "set_options": "use options(...), which returns a changed copy",
    "url": "its application has the route_prefix; serve.status() and the log say where it listens",
    "remote": "serve.run(this.bind(...)) returns a handle, which has `remote`",
}


class Deployment(Generic[T_co]):
    """A class or function to be run in replicas, with the options that say how.

    Made by `@serve.deployment`, never directly. Read-only; `options` returns a changed copy. To type checkers
    it is a `Deployment[Model]` of the class `Model`, or one of the function's type.
    """

    def __init__(
        self,
        name: str,
        config: DeploymentConfig,
        func_or_class: Callable[..., Any],
        *,
        configured: frozenset[str] = frozenset(),
        init_args: tuple[Any, ...] = (),
        init_kwargs: Mapping[str, Any] | None = None,
        version: str | None = None,
        _internal: bool = False,
    ) -> None:
        if not _internal:
            raise RuntimeError(
                "The Deployment class cannot be constructed directly. Use the @serve.deployment decorator."
            )
        self._name = name
        self._config = config
        self._func_or_class = func_or_class
        self._configured = configured
        self._init_args = init_args
        self._init_kwargs = dict(init_kwargs or {})
        self._version = version
        self.__doc__ = func_or_class.__doc__

    # --- what it is -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name, unique in its application."""
        return self._name

    @property
    def version(self) -> str | None:
        """2.7's version label. Kept, without effect: every `serve.run` replaces the replicas."""
        return self._version

    @property
    def func_or_class(self) -> type[T_co]:
        """The decorated class or function itself."""
        return self._func_or_class  # type: ignore[return-value]  # of a function: FunctionDeployment

    @property
    def config(self) -> DeploymentConfig:
        """The effective options."""
        return self._config

    @property
    def configured_options(self) -> frozenset[str]:
        """The names of the options that somebody gave, today's names."""
        return self._configured

    @property
    def num_replicas(self) -> int:
        """Replicas to run; with autoscaling the number to begin with."""
        return self._config.num_replicas

    @property
    def user_config(self) -> Any:
        """What `reconfigure` gets in each replica; None for nothing."""
        return self._config.user_config

    @property
    def max_ongoing_requests(self) -> int:
        """Calls that one replica runs at once."""
        return self._config.max_ongoing_requests

    @property
    def max_concurrent_queries(self) -> int:
        """2.7's name of `max_ongoing_requests`."""
        return self._config.max_ongoing_requests

    @property
    def max_queued_requests(self) -> int:
        """Calls that may wait in each caller; -1 for no limit."""
        return self._config.max_queued_requests

    @property
    def backpressure_config(self) -> BackpressureConfig:
        """How HTTP clients are told that the queue is full."""
        return BackpressureConfig(
            status_code=self._config.backpressure_status, retry_after_s=self._config.retry_after_s
        )

    @property
    def ray_actor_options(self) -> dict[str, Any]:
        """Resources and runtime_env, with Ray's own default of one CPU, which is shown and not set aside."""
        return {"num_cpus": 1, **self._config.ray_actor_options}

    @property
    def autoscaling_config(self) -> AutoscalingConfig | None:
        """Bounds and target of automatic scaling; None for a fixed number of replicas."""
        return self._config.autoscaling_config

    @property
    def logging_config(self) -> dict[str, Any] | None:
        """The deployment's own logging; None for the instance's."""
        return self._config.logging_config

    @property
    def route_prefix(self) -> str | None:
        """2.7's prefix in the decorator. Counts when neither `serve.run` nor a config file gives one."""
        prefix: str | None = self._config.accepted.get("route_prefix")
        return prefix

    @property
    def init_args(self) -> tuple[Any, ...]:
        """The constructor's arguments by position, from `bind` or 2.7's option."""
        return self._init_args

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The constructor's arguments by name, from `bind` or 2.7's option."""
        return self._init_kwargs

    def set_logging_config(self, logging_config: dict[str, Any] | LoggingConfig) -> None:
        """Set the logging config of this very object (the one setter Ray Serve has)."""
        self._config = apply_overrides(self._config, self._configured, {"logging_config": logging_config})

    # --- what can be made of it -------------------------------------------------------------------

    def bind(self, *args: Any, **kwargs: Any) -> Application[T_co]:
        """Return an application: this deployment with constructor arguments.

        Applications among the arguments, at any depth, become handles before the constructor runs.

        Raises:
            TypeError: an argument cannot be pickled.
            ValueError: a function deployment was given arguments.
        """
        if (args or kwargs) and not inspect.isclass(self._func_or_class):
            raise ValueError(
                f"init_args not supported for function deployments: {self._name!r} wraps a function; "
                "call bind() without arguments, or decorate a class."
            )
        args, kwargs = args or self._init_args, kwargs or self._init_kwargs
        _check_arguments(self._name, args, kwargs)
        return Application(self._copy(_init_args=args, _init_kwargs=kwargs))

    def options(
        self,
        func_or_class: Callable[..., Any] | None = None,
        name: str | Default = DEFAULT,
        version: str | None | Default = DEFAULT,
        num_replicas: int | str | None | Default = DEFAULT,
        ray_actor_options: dict[str, Any] | Default = DEFAULT,
        placement_group_bundles: list[dict[str, float]] | None | Default = DEFAULT,
        placement_group_strategy: str | None | Default = DEFAULT,
        placement_group_bundle_label_selector: list[dict[str, str]] | None | Default = DEFAULT,
        max_replicas_per_node: int | None | Default = DEFAULT,
        user_config: Any = DEFAULT,
        max_ongoing_requests: int | Default = DEFAULT,
        max_queued_requests: int | Default = DEFAULT,
        backpressure_config: dict[str, Any] | BackpressureConfig | Default = DEFAULT,
        autoscaling_config: dict[str, Any] | AutoscalingConfig | None | Default = DEFAULT,
        graceful_shutdown_wait_loop_s: float | Default = DEFAULT,
        graceful_shutdown_timeout_s: float | Default = DEFAULT,
        health_check_period_s: float | Default = DEFAULT,
        health_check_timeout_s: float | Default = DEFAULT,
        logging_config: dict[str, Any] | LoggingConfig | None | Default = DEFAULT,
        request_router_config: dict[str, Any] | RequestRouterConfig | None | Default = DEFAULT,
        _init_args: tuple[Any, ...] | Default = DEFAULT,
        _init_kwargs: dict[str, Any] | Default = DEFAULT,
        _internal: bool = False,
        max_constructor_retry_count: int | Default = DEFAULT,
        gang_scheduling_config: None | Default = DEFAULT,
        deployment_actors: None | Default = DEFAULT,
        rolling_update_percentage: float | Default = DEFAULT,
        max_surge_percent: int | None | Default = DEFAULT,
        max_concurrent_queries: int | Default = DEFAULT,
        is_driver_deployment: bool | Default = DEFAULT,
        route_prefix: str | None | Default = DEFAULT,
        init_args: tuple[Any, ...] | Default = DEFAULT,
        init_kwargs: dict[str, Any] | Default = DEFAULT,
        serialize_sync: bool | Default = DEFAULT,
        sync_threads: int | None | Default = DEFAULT,
        alive_timeout_s: float | None | Default = DEFAULT,
        deadlock_timeout_s: float | None | Default = DEFAULT,
        progress_timeout_s: float | None | Default = DEFAULT,
        outlier_ejection: OutlierEjection | Mapping[str, Any] | None | Default = DEFAULT,
        max_replica_age_s: float | None | Default = DEFAULT,
        max_replica_requests: int | None | Default = DEFAULT,
        max_replica_memory_bytes: int | None | Default = DEFAULT,
        cpu_affinity: str | list[int] | None | Default = DEFAULT,
        min_ready_s: float | Default = DEFAULT,
    ) -> Self:
        """Return a new deployment with the given options changed; this one stays as it is.

        Checked as the decorator checks. `num_replicas=None` leaves the count alone.
        """
        given = _given(locals())
        if given.get("num_replicas", DEFAULT) is None and "autoscaling_config" not in given:
            del given["num_replicas"]
        return self._copy(func_or_class=given.pop("func_or_class", None), **given)

    def _copy(
        self,
        *,
        func_or_class: Callable[..., Any] | None = None,
        name: Any = None,
        version: Any = DEFAULT,
        init_args: Any = None,
        init_kwargs: Any = None,
        _init_args: Any = None,
        _init_kwargs: Any = None,
        **given: Any,
    ) -> Self:
        """Return a deployment that differs in what is given. Every way to one ends here."""
        checked_name = self._name if name is None else _check_name(name)
        if init_args is not None or init_kwargs is not None:
            checks.warn_deprecated("init_args and init_kwargs are deprecated: give the arguments to bind().")
        try:
            options = canonical(given) if given else {}
            config = apply_overrides(self._config, self._configured, options)
            if version is not DEFAULT:
                checks.text(none=True)(version, "version", True)
            if init_args is not None:
                init_args = checks.list_of(checks.anything)(init_args, "init_args", True)
            if init_kwargs is not None:
                init_kwargs = checks.mapping_of()(init_kwargs, "init_kwargs", True)
        except InvalidConfigError as error:
            raise type(error)(f"Deployment {checked_name!r}: {error}") from error
        _warn_of_2_7(given, version)
        if options.keys() & _SCALING_OPTIONS and (advice := scaling_advice(config)):
            checks.warn(f"Deployment {checked_name!r}: {advice}", UserWarning)
        args = init_args if _init_args is None else _init_args
        kwargs = init_kwargs if _init_kwargs is None else _init_kwargs
        return Deployment(  # type: ignore[return-value]  # there are no subclasses but for type checkers
            checked_name,
            config,
            _check_code(func_or_class, checked_name) if func_or_class else self._func_or_class,
            configured=self._configured | options.keys(),
            init_args=self._init_args if args is None else tuple(args),
            init_kwargs=self._init_kwargs if kwargs is None else kwargs,
            version=self._version if version is DEFAULT else version,
            _internal=True,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"Deployment {self._name!r} cannot be constructed directly. Use "
            f"`{self._name}.bind(...)` and `serve.run`, or `{self._name}.func_or_class(...)` for the plain one."
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise TypeError(
            f"A class cannot extend the deployment {self._name!r}. Extend the class below it, "
            f"`{getattr(self._func_or_class, '__name__', self._name)}.func_or_class`, and decorate the new one."
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Deployment):
            return NotImplemented
        return (
            self._name == other._name
            and self._version == other._version
            and self._config == other._config
            and self._init_args == other._init_args
            and self._init_kwargs == other._init_kwargs
        )

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"Deployment(name={self._name})"

    if not TYPE_CHECKING:  # a checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            advice = _OF_2_7.get(name, "methods of the class itself are at func_or_class")
            raise AttributeError(f"Deployment has no attribute {name!r}; {advice}.", name=name, obj=self)


class Application(Generic[T_co]):
    """Deployments bound together, to be deployed as one. Made by `Deployment.bind`; opaque."""

    def __init__(self, bound_deployment: Deployment[T_co]) -> None:
        self._bound_deployment = bound_deployment

    def __repr__(self) -> str:
        return f"Application({self._bound_deployment.name})"

    if not TYPE_CHECKING:  # a checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"Application has no attribute {name!r}; hand it to another deployment's bind() or to serve.run, "
                "and call its methods on the handle that comes of it.",
                name=name,
                obj=self,
            )

    def __reduce__(self) -> Any:
        replace = _replacement.get()
        if replace is None:
            raise TypeError(
                f"{self!r} cannot be pickled. Pass it to another deployment's bind(), where it becomes a "
                "handle, or use serve.get_deployment_handle inside the deployment."
            )
        return _itself, (replace(self),)


_replacement: ContextVar[Callable[[Application], Any] | None] = ContextVar("replacement", default=None)


@contextlib.contextmanager
def applications_pickled_as(replace: Callable[[Application], Any]) -> Iterator[None]:
    """While open, pickling an Application, at any depth of anything, pickles `replace(it)` instead."""
    token = _replacement.set(replace)
    try:
        yield
    finally:
        _replacement.reset(token)


def _itself(value: Any) -> Any:
    return value


if TYPE_CHECKING:

    class FunctionDeployment(Deployment[T_co]):
        """A deployment of a function, as type checkers see it: `T_co` is the function's own type."""

        @property
        def func_or_class(self) -> T_co:  # type: ignore[override]  # a function where others have a class
            """The decorated function itself."""

    class DeploymentClass(ABCMeta, Deployment[Any]):
        """What the mypy plugin makes the metaclass of a decorated class: the class is a deployment too."""

        def bind(cls: type[T], *args: Any, **kwargs: Any) -> Application[T]: ...

    class DeploymentOptions(TypedDict, total=False):
        """The options of `deployment`, for its overloads."""

        name: str | Default
        version: str | None | Default
        num_replicas: int | str | None | Default
        ray_actor_options: dict[str, Any] | Default
        placement_group_bundles: list[dict[str, float]] | None | Default
        placement_group_strategy: str | None | Default
        placement_group_bundle_label_selector: list[dict[str, str]] | None | Default
        max_replicas_per_node: int | None | Default
        user_config: Any
        max_ongoing_requests: int | Default
        max_queued_requests: int | Default
        backpressure_config: dict[str, Any] | BackpressureConfig | Default
        autoscaling_config: dict[str, Any] | AutoscalingConfig | None | Default
        graceful_shutdown_wait_loop_s: float | Default
        graceful_shutdown_timeout_s: float | Default
        health_check_period_s: float | Default
        health_check_timeout_s: float | Default
        logging_config: dict[str, Any] | LoggingConfig | None | Default
        request_router_config: dict[str, Any] | RequestRouterConfig | None | Default
        max_constructor_retry_count: int | Default
        gang_scheduling_config: None | Default
        deployment_actors: None | Default
        rolling_update_percentage: float | Default
        max_surge_percent: int | None | Default
        max_concurrent_queries: int | Default
        is_driver_deployment: bool | Default
        route_prefix: str | None | Default
        init_args: tuple[Any, ...] | Default
        init_kwargs: dict[str, Any] | Default
        serialize_sync: bool | Default
        sync_threads: int | None | Default
        alive_timeout_s: float | None | Default
        deadlock_timeout_s: float | None | Default
        progress_timeout_s: float | None | Default
        outlier_ejection: OutlierEjection | Mapping[str, Any] | None | Default
        max_replica_age_s: float | None | Default
        max_replica_requests: int | None | Default
        max_replica_memory_bytes: int | None | Default
        cpu_affinity: str | list[int] | None | Default
        min_ready_s: float | Default

else:
    FunctionDeployment = Deployment  #: the name is for annotations


class DeploymentDecorator(Protocol):
    """What `deployment(option=...)` returns."""

    @overload
    def __call__(self, func_or_class: type[T], /) -> Deployment[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, func_or_class: F, /) -> FunctionDeployment[F]: ...


@overload
def deployment(  # type: ignore[overload-overlap]  # a class is callable too, and is taken for a class
    _func_or_class: type[T], **options: Unpack[DeploymentOptions]
) -> Deployment[T]: ...
@overload
def deployment(_func_or_class: F, **options: Unpack[DeploymentOptions]) -> FunctionDeployment[F]: ...
@overload
def deployment(_func_or_class: None = None, **options: Unpack[DeploymentOptions]) -> DeploymentDecorator: ...
def deployment(
    _func_or_class: Callable[..., Any] | None = None,
    name: str | Default = DEFAULT,
    version: str | None | Default = DEFAULT,
    num_replicas: int | str | None | Default = DEFAULT,
    ray_actor_options: dict[str, Any] | Default = DEFAULT,
    placement_group_bundles: list[dict[str, float]] | None | Default = DEFAULT,
    placement_group_strategy: str | None | Default = DEFAULT,
    placement_group_bundle_label_selector: list[dict[str, str]] | None | Default = DEFAULT,
    max_replicas_per_node: int | None | Default = DEFAULT,
    user_config: Any = DEFAULT,
    max_ongoing_requests: int | Default = DEFAULT,
    max_queued_requests: int | Default = DEFAULT,
    backpressure_config: dict[str, Any] | BackpressureConfig | Default = DEFAULT,
    autoscaling_config: dict[str, Any] | AutoscalingConfig | None | Default = DEFAULT,
    graceful_shutdown_wait_loop_s: float | Default = DEFAULT,
    graceful_shutdown_timeout_s: float | Default = DEFAULT,
    health_check_period_s: float | Default = DEFAULT,
    health_check_timeout_s: float | Default = DEFAULT,
    logging_config: dict[str, Any] | LoggingConfig | None | Default = DEFAULT,
    request_router_config: dict[str, Any] | RequestRouterConfig | None | Default = DEFAULT,
    max_constructor_retry_count: int | Default = DEFAULT,
    gang_scheduling_config: None | Default = DEFAULT,
    deployment_actors: None | Default = DEFAULT,
    rolling_update_percentage: float | Default = DEFAULT,
    max_surge_percent: int | None | Default = DEFAULT,
    max_concurrent_queries: int | Default = DEFAULT,
    is_driver_deployment: bool | Default = DEFAULT,
    route_prefix: str | None | Default = DEFAULT,
    init_args: tuple[Any, ...] | Default = DEFAULT,
    init_kwargs: dict[str, Any] | Default = DEFAULT,
    serialize_sync: bool | Default = DEFAULT,
    sync_threads: int | None | Default = DEFAULT,
    alive_timeout_s: float | None | Default = DEFAULT,
    deadlock_timeout_s: float | None | Default = DEFAULT,
    progress_timeout_s: float | None | Default = DEFAULT,
    outlier_ejection: OutlierEjection | Mapping[str, Any] | None | Default = DEFAULT,
    max_replica_age_s: float | None | Default = DEFAULT,
    max_replica_requests: int | None | Default = DEFAULT,
    max_replica_memory_bytes: int | None | Default = DEFAULT,
    cpu_affinity: str | list[int] | None | Default = DEFAULT,
    min_ready_s: float | Default = DEFAULT,
) -> Any:
    """Make a class or function a `Deployment`; as `@deployment` or `@deployment(option=...)`.

    Args:
        name: unique in its application; the class's or function's own name unless given. No "#".
        num_replicas: processes to run; "auto" scales between 1 and 100 with the load.
        max_ongoing_requests: calls one replica runs at once (strict; 100 unless given).
        max_queued_requests: calls that may wait in each caller; -1 for no limit.
        user_config: JSON-like value handed to the class's `reconfigure`, without a restart when it changes.
        autoscaling_config: bounds and target of automatic scaling; not together with a number of replicas.
        graceful_shutdown_wait_loop_s: seconds between looks at whether a stopping replica is idle.
        graceful_shutdown_timeout_s: seconds until a stopping replica is killed.
        health_check_period_s: seconds between calls of `check_health`.
        health_check_timeout_s: seconds after which such a call counts as failed.
        ray_actor_options: resources and runtime_env, as in Ray; only resources that are given are set aside.
        max_surge_percent: replicas beyond `num_replicas` during an update; None allows one.
        min_ready_s: seconds that a new replica must stay well before an old one makes way for it.
        serialize_sync: run sync handlers one at a time (2.7's way) instead of in parallel threads.
        sync_threads: threads for sync handlers; min(max_ongoing_requests, 5) unless given.
        alive_timeout_s: seconds after which a replica whose process does not answer is replaced; None: never.
        deadlock_timeout_s: seconds after which one whose event loop is deadlocked is; None: never.
        progress_timeout_s: seconds after which one whose event loop is blocked by anything is; None: never.
        outlier_ejection: when a replica that keeps failing calls is sent nothing for a while; None: never.
        max_replica_age_s, max_replica_requests, max_replica_memory_bytes: a replica that is older, has answered as
            many requests or occupies more is replaced, the new one before the old one; never unless given.
        cpu_affinity: "own" binds each replica to CPUs of its own, as many as its `num_cpus`; a list of CPUs, to these.
        max_concurrent_queries, is_driver_deployment, route_prefix, init_args, init_kwargs, version:
            options of Ray Serve 2.7; accepted with a DeprecationWarning.

    Raises:
        TypeError: not a class or function, an option of the wrong kind, or code that cannot be pickled.
        ValueError: an option with a wrong value, or options that contradict each other.
    """
    given = _given(locals())
    given.pop("_func_or_class", None)

    def decorate(func_or_class: Callable[..., Any]) -> Deployment:
        code = _check_code(func_or_class, given.get("name"))
        name = _check_name(given.get("name", getattr(code, "__name__", type(code).__name__)))
        base = Deployment(name, DeploymentConfig(), code, _internal=True)
        return base._copy(**given)

    return decorate if _func_or_class is None else decorate(_func_or_class)


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the caller gave, from a function's `locals()`."""
    left_out = ("self", "_internal")
    return {
        k: v
        for k, v in arguments.items()
        if v is not DEFAULT and k not in left_out and not (k == "func_or_class" and v is None)
    }


def _check_name(name: Any) -> str:
    if not isinstance(name, str):
        raise checks.wrong(name, "name", "a string", wrong_type=True)
    if not name or "#" in name:
        raise checks.wrong(name, "name", "a string that is not empty and has no '#'")
    return name


def _check_code(func_or_class: Any, name: Any) -> Callable[..., Any]:
    """Refuse what cannot be a deployment.

    What an importable module holds travels by reference and is fine as it is (and the module may not
    have finished yet). The rest travels by value, so it is pickled once to see that it can be.
    """
    if isinstance(func_or_class, Deployment | Application):
        raise TypeError(f"{func_or_class!r} is a deployment already; use its options() to change it.")
    if not (inspect.isclass(func_or_class) or callable(func_or_class)):
        raise TypeError(f"@serve.deployment must be called on a class or function, not on {func_or_class!r}.")
    by_value = func_or_class.__module__ == "__main__" or "<" in getattr(func_or_class, "__qualname__", "<")
    if by_value:
        with applications_pickled_as(lambda application: None):
            dump_code(func_or_class, owner=name if isinstance(name, str) else "")
    return func_or_class  # type: ignore[no-any-return]  # checked above


def _check_arguments(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise the TypeError for unpicklable arguments at `bind`, where the mistake is."""
    if all(_is_plain(value) for value in (*args, *kwargs.values())):
        return
    with applications_pickled_as(lambda application: None):
        dump_init(args, dict(kwargs), owner=f"deployment {name!r}")


def _is_plain(value: Any, levels: int = 8) -> bool:
    """True if pickling surely works, so that large arrays need not be pickled to find out."""
    if value is None or type(value) in (str, bytes, bytearray, int, float, bool, Application):
        return True
    if levels == 0:  # deep, or holding itself: pickle knows
        return False
    if type(value) in (list, tuple, set):
        return all(_is_plain(v, levels - 1) for v in value)
    if type(value) is dict:
        return all(_is_plain(k, levels - 1) and _is_plain(v, levels - 1) for k, v in value.items())
    dtype = getattr(value, "dtype", None)
    return type(value).__module__ == "numpy" and not getattr(dtype, "hasobject", True)


_SCALING_OPTIONS = frozenset({"max_ongoing_requests", "num_replicas", "autoscaling_config"})


def _warn_of_2_7(given: Mapping[str, Any], version: Any) -> None:
    """Say what became of options that only Ray Serve 2.7 has. (`canonical` warns of renamed ones.)"""
    advice = {
        "route_prefix": "give it to serve.run or in the config file",
        "is_driver_deployment": "one machine has one replica per node anyway",
    }
    for option, what_to_do in advice.items():
        if option in given:
            checks.warn_deprecated(f"{option} is deprecated: {what_to_do}.")
    if version not in (DEFAULT, None):
        checks.warn_deprecated(
            "version is deprecated and has no effect: every serve.run replaces the replicas."
        )
