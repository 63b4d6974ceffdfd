"""Applications become deployments as data: handles, names, order, topology; and builders."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError

from serve_lite.deployment import Application, deployment
from serve_lite.exceptions import RayServeException
from serve_lite.graph import build_deployments, call_builder
from serve_lite.handle import DeploymentHandle
from serve_lite.ingress import ingress
from serve_lite.shipping import load_code, load_init


@deployment
class Leaf:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


@deployment(name="P", num_replicas=2)
class Parent:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


@dataclasses.dataclass
class Holder:
    inside: Any


class Custom:
    def __init__(self, inside: Any) -> None:
        self.inside = [inside]


def test_one_deployment_is_data_with_its_options_and_is_the_ingress() -> None:
    (spec,) = build_deployments(Parent.bind(1, key="v"), "shop")
    assert (spec.name, spec.is_ingress, spec.is_asgi) == ("P", True, False)
    assert (spec.config.num_replicas, spec.configured_options) == (2, ("num_replicas",))
    assert load_init(spec.init) == ((1,), {"key": "v"})
    assert load_code(spec.code) is Parent.func_or_class


def test_applications_anywhere_in_the_arguments_become_handles() -> None:
    leaf = Leaf.bind()
    places: list[Any] = [leaf, [leaf], {"k": (leaf,)}, Holder(leaf), Custom(leaf)]
    specs = build_deployments(Parent.bind(*places, key=leaf), "shop")
    assert [s.name for s in specs] == ["Leaf", "P"]
    (bare, listed, mapped, held, custom), kwargs = load_init(specs[-1].init)
    for found in (bare, listed[0], mapped["k"][0], held.inside, custom.inside[0], kwargs["key"]):
        assert isinstance(found, DeploymentHandle)
        assert (found.deployment_name, found.app_name) == ("Leaf", "shop")
    assert specs[-1].calls == ("Leaf",)


def test_a_shared_node_is_one_deployment() -> None:
    leaf = Leaf.bind()
    middle = [Parent.options(name=n).bind(leaf) for n in ("A", "B")]
    specs = build_deployments(Parent.bind(*middle))
    assert [(s.name, s.calls) for s in specs] == [
        ("Leaf", ()), ("A", ("Leaf",)), ("B", ("Leaf",)), ("P", ("A", "B")),
    ]  # fmt: skip
    assert [s.is_ingress for s in specs] == [False, False, False, True]


def test_separate_binds_get_numbered_names_in_the_order_they_are_found() -> None:
    specs = build_deployments(Parent.bind(Leaf.bind(1), [Leaf.bind(2)], k=Leaf.bind(3)))
    assert [s.name for s in specs] == ["Leaf", "Leaf_1", "Leaf_2", "P"]
    assert [load_init(s.init)[0] for s in specs[:3]] == [(1,), (2,), (3,)]


def test_a_numbered_name_avoids_a_real_one() -> None:
    specs = build_deployments(Parent.bind(Leaf.options(name="Leaf_1").bind(), Leaf.bind(), Leaf.bind()))
    assert [s.name for s in specs] == ["Leaf_1", "Leaf", "Leaf_2", "P"]


def test_a_deployment_that_has_itself_as_argument_is_refused() -> None:
    box: list[Any] = []
    app = Parent.bind(box)
    box.append(app)
    with pytest.raises((RayServeException, TypeError), match="among its own arguments"):
        build_deployments(app)


def test_two_ingress_classes_in_one_application_are_refused() -> None:
    first, second = FastAPI(), FastAPI()
    leaf = deployment(name="One")(ingress(first)(type("One", (), {})))
    root = deployment(name="Two")(ingress(second)(type("Two", (), {"__init__": lambda self, h: None})))
    with pytest.raises(RayServeException, match="Found multiple FastAPI deployments.*One, Two"):
        build_deployments(root.bind(leaf.bind()))


def test_an_ingress_tells_its_documentation_path() -> None:
    made = deployment(ingress(FastAPI(docs_url="/manual"))())
    (spec,) = build_deployments(made.bind())
    assert spec.is_asgi and spec.docs_path == "/manual"


def test_an_argument_that_became_unpicklable_after_bind_is_named() -> None:
    box: list[Any] = []
    app = Leaf.bind(1, box)
    box.append(x for x in ())
    with pytest.raises(TypeError, match="argument 2 of deployment 'Leaf'"):
        build_deployments(app)


def test_only_an_application_can_be_built() -> None:
    with pytest.raises(TypeError, match=r"Deployment.bind\(\)"):
        build_deployments(Leaf)  # type: ignore[arg-type]


# --- builders ------------------------------------------------------------------------------------


class Args(BaseModel):
    path: str
    copies: int = 1


def typed(args: Args) -> Application:  # annotations are strings in this module
    return Leaf.options(num_replicas=args.copies).bind(args.path)


def untyped(args: dict[str, Any]) -> Application:
    return Leaf.bind(args)


def test_a_builder_gets_its_arguments_as_the_model_it_asks_for() -> None:
    (spec,) = build_deployments(call_builder(typed, {"path": "/m", "copies": "3"}))
    assert spec.config.num_replicas == 3 and load_init(spec.init)[0] == ("/m",)
    with pytest.raises(ValidationError, match="path"):
        call_builder(typed, {})


def test_a_builder_without_a_model_gets_the_dict() -> None:
    (spec,) = build_deployments(call_builder(untyped, {"a": "1"}))
    assert load_init(spec.init)[0] == ({"a": "1"},)


def test_an_application_is_its_own_builder_but_takes_no_arguments() -> None:
    app = Leaf.bind()
    assert call_builder(app, {}) is app
    with pytest.raises(ValueError, match="can only be passed to an application builder function"):
        call_builder(app, {"a": 1})


async def async_builder(args: Any) -> Any: ...


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Leaf, "bind it"),
        (Custom, "a function that returns one"),
        (threading.Lock(), "a function that returns one"),
        (lambda: Leaf.bind(), "exactly one parameter"),
        (lambda a, b: Leaf.bind(), "exactly one parameter"),
        (lambda a: Leaf, "must return an application"),
        (async_builder, "must not be async"),
    ],
)
def test_what_is_no_builder_is_refused(target: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call_builder(target, {})
