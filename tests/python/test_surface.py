"""The package as users meet it: what importing it costs, and what its docstrings tell.

The public surface is what `serve_lite.__all__` names and what its public modules define or list in their own
`__all__`: functions, classes, and the public methods and properties that those classes define themselves.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import serve_lite

ROOT = Path(__file__).parents[2]
MODULES = (
    "config",
    "context",
    "exceptions",
    "grpc_util",
    "handle",
    "metrics",
    "request_router",
    "schema",
    "testing",
    "tracing",
)

# --- what is imported, and when ---------------------------------------------------------------------

#: None of these has anything to do with saying what an application is.
SERVERS = {
    *("aiohttp", "fastapi", "grpc", "grpclib", "h2", "httptools", "httpx", "hypercorn", "pydantic"),
    *("starlette", "uvicorn", "uvloop", "websockets"),
}
TOOLS = {"click", "mypy", "prometheus_client", "psutil", "pytest", "rich", "ruamel", "setproctitle", "typer"}
#: Our own rooms behind the surface.
ROOMS = {
    f"serve_lite.{room}"
    for room in (
        "admin",
        "api",
        "controller",
        "daemon",
        "engines",
        "mypy_plugin",
        "proxy",
        "replica",
        "testing",
    )
}


def loaded_after(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has loaded for `code`, and had not before."""
    script = f"""
import sys
before = set(sys.modules)
{textwrap.dedent(code)}
after = set(sys.modules) - before
import json
print(json.dumps(sorted(after)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def among(modules: set[str], forbidden: set[str]) -> list[str]:
    """Return those modules that are, or are inside, one of the forbidden ones."""
    return sorted(m for m in modules if any(m == f or m.startswith(f + ".") for f in forbidden))


def test_importing_the_package_loads_nothing_else() -> None:
    modules = loaded_after("import serve_lite")
    assert "serve_lite" in modules
    assert not among(
        modules, SERVERS | TOOLS | ROOMS | {"asyncio", "cloudpickle", "msgspec", "socket", "ssl"}
    )
    assert {m for m in modules if m.startswith("serve_lite.")} == set()
    outside = {m for m in modules if m.partition(".")[0] not in sys.stdlib_module_names}
    assert outside == {"serve_lite"}
    assert len(modules) < 60


def test_describing_an_application_loads_no_server() -> None:
    modules = loaded_after(
        """
        import serve_lite as serve

        @serve.deployment(num_replicas=2, user_config={"a": 1})
        class Model:
            def __init__(self, size: int) -> None:
                self.size = size

        @serve.deployment
        def door() -> str:
            return ""

        app = Model.options(max_ongoing_requests=3).bind(door.bind())
        """
    )
    assert "serve_lite.deployment" in modules
    assert not among(modules, SERVERS | TOOLS | ROOMS | {"asyncio", "ssl"})
    assert len(modules) < 200


def test_decorators_and_handles_load_no_server() -> None:
    modules = loaded_after(
        """
        import serve_lite as serve

        class Model:
            @serve.batch
            async def many(self, xs: list[int]) -> list[int]:
                return xs

            @serve.multiplexed
            async def load(self, model_id: str) -> str:
                return model_id

        serve.DeploymentHandle("Model").many
        serve.HTTPOptions(port=0)
        serve.metrics.Counter("surface_counter", description="outside a replica it counts nothing")
        """
    )
    assert {
        "serve_lite.batching",
        "serve_lite.multiplex",
        "serve_lite.handle",
        "serve_lite.metrics",
    } <= modules
    assert not among(modules, SERVERS | TOOLS | ROOMS)


@pytest.mark.parametrize("name", MODULES)
def test_public_modules_load_no_server(name: str) -> None:
    """Each by itself, in the order in which users may happen to import them."""
    modules = loaded_after(f"import serve_lite.{name}")
    assert f"serve_lite.{name}" in modules
    allowed = {"serve_lite.testing", "pytest"} if name == "testing" else set()
    assert not among(modules - allowed, (SERVERS | TOOLS | ROOMS) - allowed)


@pytest.mark.parametrize("name", sorted(serve_lite.__all__))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(serve_lite, name) is not None
    assert name in dir(serve_lite)


def test_the_package_says_that_it_has_types() -> None:
    assert Path(serve_lite.__file__).with_name("py.typed").is_file()
    build = importlib.import_module("tomllib").loads((ROOT / "pyproject.toml").read_text())
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "serve_lite" in wheel["packages"], "hatchling ships whole packages, so py.typed with them"
    assert not any("typed" in pattern for pattern in wheel.get("exclude", []))
    assert "Typing :: Typed" in build["project"]["classifiers"]


# --- what docstrings tell ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Public:
    """One function, class, method or property of the surface."""

    name: str  #: with module and class
    what: Any  #: the class, or the function behind whatever it is
    doc: str

    def tree(self) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef:
        """Return its source, parsed."""
        node = ast.parse(textwrap.dedent(inspect.getsource(self.what))).body[0]
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        return node

    def raises(self) -> bool:
        """Whether its own body (of a class: its constructor's) raises something, besides what it has caught."""
        bodies: list[ast.AST] = [self.tree()]
        if isinstance(bodies[0], ast.ClassDef):
            bodies = [n for n in bodies[0].body if getattr(n, "name", "") in ("__init__", "__post_init__")]
        return any(isinstance(n, ast.Raise) and n.exc is not None for body in bodies for n in _own(body))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from _own(child)


def surface() -> list[Public]:
    """Return everything public, each thing once, under the first name it is found by."""
    found: dict[int, Public] = {}
    for name in serve_lite.__all__:
        _add(found, f"serve_lite.{name}", getattr(serve_lite, name))
    for name in MODULES:
        module = importlib.import_module(f"serve_lite.{name}")
        for own in _public_names(module):
            _add(found, f"{module.__name__}.{own}", getattr(module, own))
    return sorted(found.values(), key=lambda public: public.name)


def _public_names(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    fixtures = [
        name for name, value in vars(module).items() if name[0] != "_" and hasattr(value, "_fixture_function")
    ]
    if listed is not None:
        return [*listed, *fixtures]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _add(found: dict[int, Public], name: str, value: Any) -> None:
    function = _function(value)
    what = value if inspect.isclass(value) else function
    if what is None or id(what) in found or not what.__module__.startswith("serve_lite"):
        return  # a constant, a type variable, something of somebody else's
    public = Public(name, what, "")
    found[id(what)] = dataclasses.replace(public, doc=ast.get_docstring(public.tree()) or "")
    if inspect.isclass(value):
        for own, member in vars(value).items():
            if not own.startswith("_") and not inspect.isclass(member):
                _add(found, f"{name}.{own}", member)


def _function(value: Any) -> Callable[..., Any] | None:
    """Return the plain function behind a method, a property or a fixture; None if there is none."""
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    value = getattr(value, "_fixture_function", value)  # pytest's, around the function
    value = inspect.unwrap(value) if callable(value) else value
    return value if inspect.isfunction(value) and value.__name__ != "<lambda>" else None


SURFACE = surface()


def test_the_surface_is_found() -> None:
    names = {public.name for public in SURFACE}
    assert {
        "serve_lite.deployment",
        "serve_lite.Deployment.bind",
        "serve_lite.DeploymentHandle.options",
        "serve_lite.DeploymentHandle.deployment_name",
        "serve_lite.handle.DeploymentResponse.result",
        "serve_lite.config.AutoscalingConfig",
        "serve_lite.exceptions.BackPressureError",
        "serve_lite.schema.ServeStatus",
        "serve_lite.testing.serve_app",
    } <= names
    assert len(names) > 150


def test_the_surface_is_documented() -> None:
    silent = [public.name for public in SURFACE if not public.doc.strip()]
    covered = 1 - len(silent) / len(SURFACE)
    assert covered >= 0.95, f"{covered:.0%} have a docstring; missing:\n" + "\n".join(silent)


def test_what_is_raised_is_told() -> None:
    """A function that raises says so: by a `Raises:` section or in its sentences."""
    raising = [public for public in SURFACE if public.doc and public.raises()]
    silent = [p.name for p in raising if not re.search(r"\brais|Error\b|\brefuse", p.doc, re.IGNORECASE)]
    assert len(raising) >= 10
    assert len(silent) <= 0.2 * len(raising), "raise without saying so:\n" + "\n".join(silent)


def test_times_have_their_unit() -> None:
    """A parameter that is a time is named `..._s`, or its docstring says "seconds"."""
    times = re.compile(r"(timeout|period|interval|delay|cooldown)$")
    silent, seen = [], 0
    for public in SURFACE:
        for name, parameter in _parameters(public):
            seen += name.endswith("_s")
            if times.search(name) and "second" not in public.doc and parameter.annotation is not bool:
                silent.append(f"{public.name}({name})")
    assert seen >= 10
    assert not silent, "times without a unit:\n" + "\n".join(silent)


def _parameters(public: Public) -> list[tuple[str, inspect.Parameter]]:
    try:
        return list(inspect.signature(public.what).parameters.items())
    except ValueError:  # an exception class without a constructor of its own
        return []
