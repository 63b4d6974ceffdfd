"""From a bound application to the data a controller can deploy.

`build_deployments` walks the graph of Applications by pickling each deployment's arguments: wherever
an Application turns up, at any depth of any picklable object, a handle to its deployment is pickled
instead. `call_builder` makes the application when the target is a function that builds one.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from serve_lite.deployment import Application, Deployment, applications_pickled_as
from serve_lite.exceptions import RayServeException
from serve_lite.handle import DeploymentHandle
from serve_lite.ingress import docs_path, is_ingress
from serve_lite.shipping import dump_code, dump_init
from serve_lite.state.goal import DeploymentSpec


def build_deployments(app: Application, app_name: str = "default") -> tuple[DeploymentSpec, ...]:
    """Return the deployments of an application as data: each once, children before parents, ingress last.

    A second deployment of the same name becomes `Name_1`, a third `Name_2`, in the order they are found.

    Raises:
        TypeError: `app` is no Application, or code or an argument cannot travel.
        RayServeException: two deployments carry `@serve.ingress`, or the graph has a cycle.
    """
    return tuple(_walked(app, app_name, ships_code=True).specs)


def build_here(app: Application, app_name: str) -> tuple[tuple[DeploymentSpec, Callable[..., Any]], ...]:
    """Return the same for replicas in this very process: each deployment with its class or function itself.

    The specs hold no code, so what could not travel is no error here.

    Raises:
        TypeError, RayServeException: as `build_deployments`.
    """
    graph = _walked(app, app_name, ships_code=False)
    return tuple(zip(graph.specs, graph.targets, strict=True))


def with_runtime_envs(specs: Iterable[DeploymentSpec]) -> tuple[DeploymentSpec, ...]:
    """Return deployments with the `runtime_env` that their code gives them, read.

    To be called where their code was run: relative paths in it are relative to the working directory.

    Raises:
        InvalidConfigError: one of them is wrong; says whose.
    """
    return tuple(_with_runtime_env(spec) for spec in specs)


def _with_runtime_env(spec: DeploymentSpec) -> DeploymentSpec:
    given = spec.config.ray_actor_options.get("runtime_env")
    if not given:
        return spec
    from serve_lite.runtime_env.reading import read_runtime_env  # most deployments have none

    where = f"{spec.name}.ray_actor_options.runtime_env"
    return msgspec.structs.replace(spec, runtime_env=read_runtime_env(given, where, base_dir=os.getcwd()))


def _walked(app: Application, app_name: str, *, ships_code: bool) -> _Graph:
    if not isinstance(app, Application):
        raise TypeError(
            f"Expected an application, the result of `Deployment.bind()`, but got {type(app).__name__!r}."
        )
    graph = _Graph(app_name, ships_code=ships_code)
    graph.visit(app, is_ingress_of_app=True)
    with_app = [spec.name for spec in graph.specs if spec.is_asgi]
    if len(with_app) > 1:
        raise RayServeException(
            f"Found multiple FastAPI deployments in application {app_name!r}: {', '.join(with_app)}. Only one "
            "deployment of an application may carry @serve.ingress; deploy the others as applications of their own."
        )
    return graph


class _Graph:
    """The deployments of one application found so far."""

    def __init__(self, app_name: str, *, ships_code: bool) -> None:
        self.specs: list[DeploymentSpec] = []
        self.targets: list[Callable[..., Any]] = []  #: class or function of each spec
        self._ships_code = ships_code
        self._app_name = app_name
        self._names: dict[int, str] = {}  #: by the Application's identity
        self._visited: list[Application] = []  #: alive, so that no identity is used a second time
        self._open: set[int] = set()  #: those whose arguments are being walked

    def visit(self, app: Application, *, is_ingress_of_app: bool = False) -> str:
        """Add an application's deployment, its children first; return the name it got."""
        if id(app) in self._names:
            return self._names[id(app)]
        deployment = app._bound_deployment
        if id(app) in self._open:
            raise RayServeException(
                f"Deployment {deployment.name!r} is among its own arguments; a graph must have no cycle."
            )
        self._open.add(id(app))
        self._visited.append(app)
        init, calls = self._walk_arguments(deployment)
        self._open.discard(id(app))
        name = self._names[id(app)] = self._free_name(deployment.name)
        self.targets.append(deployment.func_or_class)
        self.specs.append(
            DeploymentSpec(
                name=name,
                config=deployment.config,
                configured_options=tuple(sorted(deployment.configured_options)),
                code=dump_code(deployment.func_or_class, owner=deployment.name) if self._ships_code else b"",
                init=init,
                is_ingress=is_ingress_of_app,
                is_asgi=is_ingress(deployment.func_or_class),
                docs_path=docs_path(deployment.func_or_class),
                calls=calls,
            )
        )
        return name

    def _walk_arguments(self, deployment: Deployment) -> tuple[bytes, tuple[str, ...]]:
        """Return the arguments as bytes, handles inside, and the names of the deployments called."""
        called: dict[str, None] = {}

        def handle_for(child: Application) -> DeploymentHandle:
            name = self.visit(child)
            called[name] = None
            return DeploymentHandle(name, self._app_name)

        with applications_pickled_as(handle_for):
            init = dump_init(
                deployment.init_args, deployment.init_kwargs, owner=f"deployment {deployment.name!r}"
            )
        return init, tuple(called)

    def _free_name(self, wanted: str) -> str:
        taken = {spec.name for spec in self.specs}
        name, number = wanted, 0
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        return name


# --- builders ------------------------------------------------------------------------------------


def call_builder(target: Any, args: Mapping[str, Any]) -> Application:
    """Return the application: `target` itself, or what it returns when it is a builder function.

    A builder has exactly one parameter. If that is annotated with a pydantic model, a dataclass or a
    `msgspec.Struct`, the arguments are validated into one, so that the command line's strings become
    numbers; otherwise it gets the dict.

    Raises:
        ValueError: arguments for something that takes none, or wrong ones (pydantic's error for its models).
        TypeError: neither an application nor a builder, or a builder that returns something else.
    """
    if isinstance(target, Application):
        if args:
            raise ValueError(
                f"Arguments can only be passed to an application builder function, but {target!r} is an "
                f"application already; it cannot use {sorted(args)}."
            )
        return target
    if isinstance(target, Deployment):
        raise TypeError(f"{target!r} is not an application; bind it: `app = {target.name}.bind()`.")
    if not isinstance(target, types.FunctionType):
        raise TypeError(
            "Expected an application (the result of `bind()`) or a function that returns one, "
            f"but got {type(target).__name__!r}."
        )
    if inspect.iscoroutinefunction(target):
        raise TypeError(
            f"The application builder {target.__name__!r} must not be async: it runs where the application is "
            "built, which has no event loop. Write `def`, and do what needs a loop in a deployment's constructor."
        )
    app = _call(target, dict(args))
    if not isinstance(app, Application):
        raise TypeError(
            f"The application builder {target.__name__!r} must return an application, the result of `bind()`, "
            f"but it returned {type(app).__name__!r}."
        )
    return app


def _call(builder: types.FunctionType, args: dict[str, Any]) -> Any:
    """Call a builder with its one argument."""
    parameters = list(inspect.signature(builder).parameters.values())
    if len(parameters) != 1:
        raise TypeError(
            f"The application builder {builder.__name__!r} must take exactly one parameter, a dict or a pydantic "
            f"model, but it takes {len(parameters)}."
        )
    (parameter,) = parameters
    if parameter.kind is parameter.VAR_KEYWORD:
        return builder(**args)
    annotation = _annotation(builder, parameter)
    argument = _validated(builder.__name__, annotation, args)
    try:
        return (
            builder(**{parameter.name: argument})
            if parameter.kind is parameter.KEYWORD_ONLY
            else builder(argument)
        )
    except AttributeError as error:
        if isinstance(annotation, str):
            error.add_note(
                f"The builder got a plain dict: its annotation {annotation!r} names nothing that exists at run "
                "time. Import the class outside of `if TYPE_CHECKING`."
            )
        raise


def _annotation(builder: types.FunctionType, parameter: inspect.Parameter) -> Any:
    """Return the parameter's annotation, resolved if it is text (`from __future__ import annotations`).

    Text that names something for type checkers only stays text.
    """
    only = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    enclosed = inspect.getclosurevars(builder).nonlocals
    try:
        found = typing.get_type_hints(only, globalns=builder.__globals__, localns=dict(enclosed))[
            parameter.name
        ]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return parameter.annotation
    several = [choice for choice in typing.get_args(found) if choice is not types.NoneType]
    is_optional = typing.get_origin(found) in (typing.Union, types.UnionType) and len(several) == 1
    return several[0] if is_optional else found


def _validated(builder: str, model: Any, args: dict[str, Any]) -> Any:
    """Return the arguments as the model, if it is one; else as they are."""
    if not inspect.isclass(model):
        return args
    bases = [sys.modules[name].BaseModel for name in ("pydantic", "pydantic.v1") if name in sys.modules]
    if issubclass(model, tuple(bases)):
        validate = getattr(model, "model_validate", None) or model.parse_obj  # type: ignore[attr-defined]  # older
        return validate(args)
    if not dataclasses.is_dataclass(model) and not issubclass(model, msgspec.Struct):
        return args
    fields = [field.encode_name for field in msgspec.inspect.type_info(model).fields]  # type: ignore[attr-defined]
    if unknown := sorted(args.keys() - set(fields)):
        raise ValueError(
            f"The application builder {builder!r} takes no argument {unknown[0]!r}; it takes {', '.join(fields)}."
        )
    try:
        return msgspec.convert(args, model, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"Wrong argument for the application builder {builder!r}: {error}") from error
