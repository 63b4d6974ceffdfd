"""What types ask of the run time: subscripts that do nothing, and methods given as functions."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import serve_lite as serve
from serve_lite.deployment import Application, Deployment, FunctionDeployment, deployment
from serve_lite.handle import (
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
    DeploymentStreamHandle,
)

ROOT = Path(__file__).parents[2]


class Model:
    def predict(self, x: int) -> int:
        return x

    @serve.batch
    async def batched(self, xs: list[int]) -> list[int]:
        return xs

    @serve.multiplexed
    async def load(self, model_id: str) -> str:
        return model_id


@pytest.mark.parametrize(
    "generic",
    [
        *(Application, Deployment, FunctionDeployment, DeploymentHandle, DeploymentStreamHandle),
        *(DeploymentResponse, DeploymentResponseGenerator),
    ],
)
def test_every_generic_class_can_be_subscripted(generic: Any) -> None:
    assert generic[Model].__origin__ is generic[int].__origin__
    assert generic[Callable[[int], str]] != generic[Model]


def test_a_decorated_class_can_be_a_subscript() -> None:
    assert DeploymentHandle[serve.deployment(Model)].__args__[0].name == "Model"  # type: ignore[misc]


def test_names_for_annotations_are_the_classes_themselves() -> None:
    assert DeploymentStreamHandle is DeploymentHandle
    assert FunctionDeployment is Deployment


def test_a_subscripted_handle_is_a_handle() -> None:
    handle = DeploymentHandle[Model]("Model", "app")
    assert pickle.loads(pickle.dumps(handle)).deployment_id == handle.deployment_id
    assert type(handle) is DeploymentHandle


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Model.predict, "predict"),
        (Model().predict, "predict"),
        (Model.batched, "batched"),
        (Model.load, "load"),
        (serve.deployment(Model).func_or_class.predict, "predict"),
        ("predict", "predict"),
    ],
)
def test_a_method_is_chosen_by_its_function(method: Any, name: str) -> None:
    handle: DeploymentHandle[Any] = DeploymentHandle("Model")
    assert handle.options(method_name=method).handle_options.method_name == name


@pytest.mark.parametrize("wrong", [3, Model(), lambda self: 1, object()])
def test_what_is_no_method_is_refused_at_once(wrong: Any) -> None:
    handle: DeploymentHandle[Any] = DeploymentHandle("Model")
    with pytest.raises(TypeError, match=r"must be the name of a method, or a method itself"):
        handle.options(method_name=wrong)


def test_neither_mypy_nor_typing_extensions_is_needed() -> None:
    """The plugin is mypy's to import, and typing_extensions is known to checkers alone."""
    script = """
import sys
sys.modules["mypy"] = sys.modules["typing_extensions"] = None  # importing them fails
import serve_lite as serve
serve.DeploymentHandle, serve.deployment, serve.batch, serve.multiplexed, serve.ingress, serve.run
assert "serve_lite.mypy_plugin" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_checkers_know_the_options_that_there_are() -> None:
    """The overloads take their options from a TypedDict, which must list those of the implementation."""
    source = Path(deployment.__code__.co_filename).read_text()
    listed = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name == "DeploymentOptions"
    )
    names = [field.target.id for field in listed.body if isinstance(field, ast.AnnAssign)]
    assert names == list(inspect.signature(deployment).parameters)[1:]
