"""Functions that build applications: what they are given, what they must return, and who calls them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import anyio
import msgspec
import pytest
from pydantic import BaseModel, ValidationError
from pydantic import v1 as pydantic_v1

import serve_lite as serve
from serve_lite.deployment import Application, deployment
from serve_lite.graph import build_deployments, call_builder
from serve_lite.shipping import load_init
from tests.cli.commands import Cli, text_of
from tests.instances import Instance, Instances

if TYPE_CHECKING:
    from collections.abc import Mapping as OnlyForCheckers

    from serve_lite.deployment import Application as AlsoOnlyForCheckers


@deployment
class Model:
    def __init__(self, *args: Any) -> None: ...


def built(builder: Any, **args: Any) -> Any:
    """Return the argument with which the builder bound `Model`."""
    (spec,) = build_deployments(call_builder(builder, args))
    (argument,), _ = load_init(spec.init)
    return argument


# --- what a builder is given --------------------------------------------------------------------------


class Args(BaseModel):
    path: str
    copies: int = 1
    fast: bool = False


class OldArgs(pydantic_v1.BaseModel):
    copies: int = 1


@dataclasses.dataclass
class DataclassArgs:
    path: str
    copies: int = 1


class StructArgs(msgspec.Struct):
    copies: int


class Keys(TypedDict):
    copies: int


def of_model(args: Args) -> Application:
    return Model.bind(args)


def of_model_unless_none(args: Args | None = None) -> Application:
    return Model.bind(args)


def of_model_with_return_for_checkers(args: Args) -> AlsoOnlyForCheckers:
    return Model.bind(args)


def of_annotated(args: Annotated[Args, "from the config file"]) -> Application:
    return Model.bind(args)


def of_keyword_only(*, args: Args) -> Application:
    return Model.bind(args)


@pytest.mark.parametrize(
    "builder",
    [of_model, of_model_unless_none, of_model_with_return_for_checkers, of_annotated, of_keyword_only],
)
def test_a_model_is_made_of_the_command_lines_strings(builder: Any) -> None:
    assert built(builder, path="/m", copies="3", fast="true") == Args(path="/m", copies=3, fast=True)
    with pytest.raises(ValidationError, match="path"):
        built(builder)
    with pytest.raises(ValidationError, match="copies"):
        built(builder, path="/m", copies="many")


def test_a_model_of_an_enclosing_function_is_found() -> None:
    class Local(BaseModel):
        copies: int = 1

    def builder(args: Local) -> Application:
        assert isinstance(args, Local)
        return Model.bind(args.copies)

    assert built(builder, copies="3") == 3


def test_the_older_generation_of_models_works_too() -> None:
    def builder(args: OldArgs) -> Application:
        assert isinstance(args, OldArgs)
        return Model.bind(args.copies)

    assert built(builder, copies="3") == 3


def test_dataclasses_and_structs_are_made_too_and_refuse_what_they_do_not_know() -> None:
    def of_dataclass(args: DataclassArgs) -> Application:
        return Model.bind(args)

    def of_struct(args: StructArgs) -> Application:
        return Model.bind(args)

    assert built(of_dataclass, path="/m", copies="3") == DataclassArgs("/m", 3)
    assert built(of_struct, copies="3") == StructArgs(3)
    with pytest.raises(ValueError, match="'of_dataclass' takes no argument 'paht'; it takes path, copies"):
        built(of_dataclass, paht="/m")
    with pytest.raises(ValueError, match="'of_struct': Expected `int`, got `str` - at `\\$.copies`"):
        built(of_struct, copies="many")


def test_every_other_annotation_means_the_dict() -> None:
    def of_mapping(args: OnlyForCheckers[str, Any]) -> Application:
        return Model.bind(args)

    def of_typed_dict(args: Keys) -> Application:
        return Model.bind(args)

    def of_text(args: "a text that is no annotation") -> Application:  # type: ignore[valid-type]  # noqa: F722
        return Model.bind(args)

    def bare(args):  # type: ignore[no-untyped-def]
        return Model.bind(args)

    def keywords(**args: Any) -> Application:
        return Model.bind(args)

    for builder in (of_mapping, of_typed_dict, of_text, bare, keywords, lambda args: Model.bind(args)):
        assert built(builder, copies="3", more=1) == {"copies": "3", "more": 1}


def test_a_model_that_only_checkers_see_is_told_apart_from_a_mistake_in_the_builder() -> None:
    def builder(args: OnlyForCheckersModel) -> Application:  # type: ignore[name-defined]  # noqa: F821
        return Model.bind(args.path)

    with pytest.raises(AttributeError) as failed:
        built(builder, path="/m")
    assert "annotation 'OnlyForCheckersModel' names nothing" in failed.value.__notes__[0]

    def mistaken(args: Args) -> Application:
        return Model.bind(args.pth)  # type: ignore[attr-defined]

    with pytest.raises(AttributeError) as failed:
        built(mistaken, path="/m")
    assert not hasattr(failed.value, "__notes__")


def test_a_decorated_builder_is_the_builder_it_wraps() -> None:
    @functools.wraps(of_model)
    def wrapper(*args: Any, **kwargs: Any) -> Application:
        return of_model(*args, **kwargs)

    assert built(wrapper, path="/m", copies="2") == Args(path="/m", copies=2)


# --- what is no builder ---------------------------------------------------------------------------------


class CallableObject:
    def __call__(self, args: Any) -> Application:
        return Model.bind(args)


async def asynchronous(args: Any) -> Application:
    return Model.bind(args)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (functools.partial(of_model), "a function that returns one, but got 'partial'"),
        (CallableObject(), "a function that returns one, but got 'CallableObject'"),
        (CallableObject, "a function that returns one, but got 'type'"),
        (asynchronous, "'asynchronous' must not be async.*no event loop.*constructor"),
        (lambda: Model.bind(), "exactly one parameter.*takes 0"),
        (lambda a, b=1: Model.bind(), "exactly one parameter.*takes 2"),
        (lambda args: Model, "must return an application.*returned 'Deployment'"),
        (lambda args: None, "must return an application.*returned 'NoneType'"),
    ],
)
def test_what_is_no_builder_is_refused_with_the_reason(target: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call_builder(target, {})


def test_a_deployment_is_to_be_bound_first_and_an_application_takes_no_arguments() -> None:
    with pytest.raises(TypeError, match=r"bind it: `app = Model.bind\(\)`"):
        call_builder(Model, {})
    app = Model.bind()
    assert call_builder(app, {}) is app
    with pytest.raises(ValueError, match="can only be passed to an application builder function"):
        call_builder(app, {"a": 1})


# --- who calls them: command line, configuration file, Python ------------------------------------------

CODE = """
from __future__ import annotations
from typing import TYPE_CHECKING
from pydantic import BaseModel
import serve_lite as serve
if TYPE_CHECKING:
    from serve_lite import Application

class Args(BaseModel):
    word: str
    times: int = 1

@serve.deployment
class Echo:
    def __init__(self, text):
        self.text = text
    def __call__(self):
        return self.text

def build(args: Args) -> Application:
    return Echo.bind(args.word * args.times)

def untyped(args):
    return Echo.bind(repr(sorted(args.items())))

async def build_async(args):
    return Echo.bind("never")
"""


@pytest.fixture
async def cli(instances: Instances, tmp_path: Path) -> AsyncIterator[Cli]:
    cli = Cli(instances.options().home, tmp_path)
    cli.write("echo_app.py", CODE)
    yield cli
    await cli.close()


@pytest.mark.processes
@pytest.mark.anyio
async def test_the_command_line_gives_its_pairs(cli: Cli) -> None:
    for name, target, answer in (
        ("typed", "echo_app:build", "aaa"),
        ("untyped", "echo_app:untyped", "[('times', '3'), ('word', 'a')]"),
    ):
        done = await cli(
            "run", target, "word=a", "times=3", "--non-blocking", "--port", "0", "--name", name,
            "--route-prefix", f"/{name}",
        )  # fmt: skip
        assert done.code == 0, done
        url = next(word for word in done.out.split() if word.startswith("http"))
        assert await text_of(url) == answer
    refused = await cli("run", "echo_app:build", "times=many", "--non-blocking")
    assert refused.code != 0 and "word" in refused.err + refused.out and "times" in refused.err + refused.out
    refused = await cli("run", "echo_app:build_async", "--non-blocking")
    assert refused.code != 0 and "must not be async" in refused.err + refused.out


@pytest.mark.processes
@pytest.mark.anyio
async def test_a_configuration_file_gives_its_args(cli: Cli) -> None:
    config = """
    applications:
      - {name: typed, route_prefix: /typed, import_path: "echo_app:build", args: {word: b, times: 2}}
      - {name: untyped, route_prefix: /untyped, import_path: "echo_app:untyped", args: {word: b, times: 2}}
    """
    cli.write("config.yaml", config)
    done = await cli("run", "config.yaml", "--non-blocking", "--port", "0")
    assert done.code == 0, done
    urls = sorted(word for word in done.out.split() if word.startswith("http"))
    assert [await text_of(url) for url in urls] == ["bb", "[('times', 2), ('word', 'b')]"]


@pytest.mark.anyio
async def test_python_calls_the_builder_itself(daemon: Instance) -> None:
    @deployment
    class Echo:
        def __init__(self, args: Any) -> None:
            self.args = args

        def __call__(self) -> Any:
            return self.args.path * self.args.copies

    def build(args: Args) -> Application:
        return Echo.bind(args)

    handle = await daemon.run(build(Args(path="c", copies=2)))
    assert await handle.remote() == "cc"
    with pytest.raises(TypeError, match=r"expects an Application.*call it: `serve.run\(build\(...\)\)`"):
        await anyio.to_thread.run_sync(lambda: serve.run(build))
    with pytest.raises(TypeError, match=r"expects an Application.*Bind it: `Echo.bind\(...\)`"):
        await anyio.to_thread.run_sync(lambda: serve.run(Echo))
