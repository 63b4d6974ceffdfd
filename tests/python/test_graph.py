"""Applications become deployments as data: handles, names, order, topology. Builders: `test_builders.py`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
from fastapi import FastAPI

from serve_lite.deployment import deployment
from serve_lite.exceptions import RayServeException
from serve_lite.graph import build_deployments
from serve_lite.handle import DeploymentHandle
from serve_lite.ingress import ingress
from serve_lite.shipping import load_code, load_init
from tests.instances import Instance


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
    with pytest.raises(RayServeException, match="^Deployment 'P' is among its own arguments"):
        build_deployments(app)


def test_a_longer_cycle_is_refused_too() -> None:
    box: list[Any] = []
    app = Parent.bind(Leaf.bind(Leaf.options(name="Other").bind(box)))
    box.append({"again": app})
    with pytest.raises(RayServeException, match="^Deployment 'P' is among its own arguments"):
        build_deployments(app)


def test_sets_deep_nesting_and_values_of_every_kind_hold_applications() -> None:
    one, two, three = (Leaf.bind(n) for n in range(3))
    deep: Any = three
    for _ in range(50):
        deep = {"next": [deep]}
    specs = build_deployments(Parent.bind({one}, frozenset([two]), functools.partial(print, one), deep=deep))
    assert [s.name for s in specs] == ["Leaf", "Leaf_1", "Leaf_2", "P"]
    (a_set, a_frozenset, partial), kwargs = load_init(specs[-1].init)
    deep = kwargs["deep"]
    while isinstance(deep, dict):
        deep = deep["next"][0]
    found = [*a_set, *a_frozenset, *partial.args, deep]
    assert [handle.deployment_name for handle in found] == ["Leaf", "Leaf_1", "Leaf", "Leaf_2"]


class MakesOne:
    """Its pickle holds an application that exists only then."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> dict[str, Any]:
        return {"handle": Leaf.bind(self.number)}


def test_applications_that_are_made_while_arguments_are_pickled_are_not_mixed_up() -> None:
    specs = build_deployments(Parent.bind([MakesOne(n) for n in range(20)]))
    assert [load_init(s.init)[0] for s in specs[:-1]] == [(n,) for n in range(20)]
    names = [made.handle.deployment_name for made in load_init(specs[-1].init)[0][0]]
    assert names == [s.name for s in specs[:-1]] and len(set(names)) == 20


def test_one_application_may_be_part_of_two() -> None:
    leaf = Leaf.bind()
    first = build_deployments(Parent.bind(leaf), "first")
    second = build_deployments(Parent.options(name="Q").bind([leaf]), "second")
    assert [s.name for s in first + second] == ["Leaf", "P", "Leaf", "Q"]
    ((handle,), _), (([other],), _) = load_init(first[-1].init), load_init(second[-1].init)
    assert (handle.app_name, other.app_name) == ("first", "second")


def test_arguments_that_are_nested_too_deeply_are_refused_in_words() -> None:
    deep: Any = Leaf.bind()
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="argument 1 of deployment 'P' to a replica: it is nested too deeply"):
        Parent.bind(deep)
    while isinstance(deep, list):  # taking it apart from inside would need as many frames
        deep = deep[0]


def test_an_argument_may_hold_itself() -> None:
    box: list[Any] = [1]
    box.append(box)
    (spec,) = build_deployments(Leaf.bind(box))
    (arrived,), _ = load_init(spec.init)
    assert arrived[0] == 1 and arrived[1] is arrived


# --- what a deployment may be made of ------------------------------------------------------------


@deployment
def function(request: Any) -> str:
    return "function"


class Called:
    def __call__(self, request: Any) -> str:
        return "object"


def test_functions_partials_and_callable_objects_are_deployments_without_arguments() -> None:
    partial = deployment(name="Partial")(functools.partial(int, base=2))
    for made in (function, partial, deployment(name="Object")(Called())):
        (spec,) = build_deployments(made.bind())
        assert callable(load_code(spec.code))
        with pytest.raises(ValueError, match="init_args not supported for function deployments"):
            made.bind(1)
    (spec,) = build_deployments(partial.bind())
    assert load_code(spec.code)("101") == 5


@deployment
class Child(Leaf.func_or_class):  # type: ignore[misc, name-defined]  # a variable as a base
    def extra(self) -> str:
        return "extra"


def test_the_class_below_a_deployment_can_be_extended_but_not_the_deployment() -> None:
    (spec,) = build_deployments(Child.bind())
    arrived: Any = load_code(spec.code)
    assert spec.name == "Child" and issubclass(arrived, Leaf.func_or_class) and arrived().extra() == "extra"
    with pytest.raises(
        TypeError, match=r"cannot extend the deployment 'Leaf'. Extend the class below it, `Leaf.func"
    ):

        class Wrong(Leaf):  # type: ignore[misc, valid-type]
            pass


@deployment
class Asks:
    def __init__(self, *places: Any) -> None:
        (self.in_set,), self.in_partial, self.held = places[0], places[1].args[0], places[2].inside

    async def ask(self) -> list[str]:
        handles = (self.in_set, self.in_partial, self.held)
        return [await handle.say.remote() for handle in handles]


@deployment
class Says:
    def __init__(self, word: str) -> None:
        self.word = word

    def say(self) -> str:
        return self.word


@pytest.mark.anyio
async def test_handles_in_containers_reach_their_deployments(daemon: Instance) -> None:
    shared = Says.bind("a")
    app = Asks.bind({shared}, functools.partial(print, Says.bind("b")), Holder(shared))
    handle = await daemon.run(app)
    assert await handle.ask.remote() == ["a", "b", "a"]
    assert set((await daemon.status()).applications["default"].deployments) == {"Says", "Says_1", "Asks"}


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
