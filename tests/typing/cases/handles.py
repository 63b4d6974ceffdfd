"""Handles to undecorated classes and to functions: the same types under every checker."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, reveal_type

import serve_lite as serve
from serve_lite.handle import DeploymentHandle, DeploymentResponse


class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    async def __call__(self, x: int, note: str = "") -> str:
        return note * x

    def predict(self, text: str, limit: int) -> float:
        return len(text) / limit

    async def lookup(self, key: bytes) -> list[int]:
        return [len(key)]

    def ratio(self, *, over: float) -> float:
        return over

    async def tokens(self, n: int) -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b""

    def items(self) -> Iterator[int]:
        yield 1

    def untyped(self, x):  # type: ignore[no-untyped-def]
        return x


class Silent:
    def method(self) -> None: ...


class Sync:
    def __call__(self, *values: float, scale: int = 1) -> float:
        return sum(values) * scale


@serve.deployment
def square(x: int) -> int:
    return x * x


@serve.deployment(num_replicas=2, max_ongoing_requests=5)
async def shout(text: str, *, times: int = 1) -> str:
    return text.upper() * times


deployed = serve.deployment(Model)
with_options = serve.deployment(num_replicas=2)(Model)
named = serve.deployment(Model, name="named", num_replicas=2)
changed = deployed.options(num_replicas=3)
app = deployed.bind(1)


def deployments() -> None:
    reveal_type(deployed)  #: Deployment[Model]
    reveal_type(with_options)  #: Deployment[Model]
    reveal_type(named)  #: Deployment[Model]
    reveal_type(changed)  #: Deployment[Model]
    reveal_type(deployed.func_or_class)  #: type[Model]
    reveal_type(app)  #: Application[Model]
    reveal_type(serve.run(app))  #: DeploymentHandle[Model]
    reveal_type(square)  #: FunctionDeployment[(x: int) -> int]
    reveal_type(square.func_or_class(3))  #: int
    reveal_type(square.options(name="s").func_or_class(3))  #: int
    reveal_type(serve.run(square.bind()).remote(3))  #: DeploymentResponse[int]
    reveal_type(serve.run(shout.bind()).remote("a", times=3))  #: DeploymentResponse[str]
    #! mypy call-overload; plugin arg-type; pyright reportCallIssue reportArgumentType
    serve.run(shout.bind()).remote("a", times="3")
    serve.run(Model)  #! mypy arg-type; plugin arg-type; pyright reportArgumentType
    serve.deployment(Model, nam="a")  #! mypy call-overload; plugin call-overload; pyright reportCallIssue
    serve.deployment(num_replica=2)  #! mypy call-overload; plugin call-overload; pyright reportCallIssue


def calls(handle: DeploymentHandle[Model]) -> None:
    reveal_type(handle.remote(1))  #: DeploymentResponse[str]
    reveal_type(handle.remote(x=1, note="a"))  #: DeploymentResponse[str]
    reveal_type(handle.remote(1).result())  #: str
    reveal_type(handle.remote(1).result(timeout_s=5))  #: str
    handle.remote("1")  #! mypy call-overload; plugin arg-type; pyright reportCallIssue reportArgumentType
    handle.remote()  #! mypy call-overload; plugin call-arg; pyright reportCallIssue
    handle.remote(1, "", 2)  #! mypy call-overload; plugin call-arg; pyright reportCallIssue
    handle.remote(1, nota="")  #! mypy call-overload; plugin call-arg; pyright reportCallIssue
    reveal_type(handle.options(multiplexed_model_id="m"))  #: DeploymentHandle[Model]
    #! mypy call-overload; plugin call-overload; pyright reportCallIssue
    handle.options(multiplexed_model=1)


def sync_calls(handle: DeploymentHandle[Sync], silent: DeploymentHandle[Silent]) -> None:
    reveal_type(handle.remote(1, 2.5, scale=2))  #: DeploymentResponse[float]
    silent.remote()  #! mypy misc; plugin misc; pyright reportAttributeAccessIssue


async def awaited(handle: DeploymentHandle[Model]) -> None:
    reveal_type(await handle.remote(1))  #: str
    #! mypy attr-defined; plugin attr-defined; pyright reportGeneralTypeIssues
    async for item in handle.remote(1):
        print(item)


def methods(handle: DeploymentHandle[Model]) -> None:
    predict = handle.options(method_name=Model.predict)
    reveal_type(predict)  #: DeploymentHandle[(text: str, limit: int) -> float]
    reveal_type(predict.remote("a", 1))  #: DeploymentResponse[float]
    reveal_type(predict.remote(limit=1, text="a"))  #: DeploymentResponse[float]
    reveal_type(predict.options(session_id="s").remote("a", 1))  #: DeploymentResponse[float]
    predict.remote(1, 1)  #! mypy call-overload; plugin arg-type; pyright reportCallIssue reportArgumentType
    reveal_type(handle.options(method_name=Model.lookup).remote(b""))  #: DeploymentResponse[list[int]]
    reveal_type(handle.options(method_name=Model.ratio).remote(over=1.5))  #: DeploymentResponse[float]
    reveal_type(handle.options(method_name=Model.untyped).remote(1))  #: DeploymentResponse[Any]
    #! mypy call-overload; plugin call-overload; pyright reportCallIssue reportArgumentType
    handle.options(method_name=3)


def composition(handle: DeploymentHandle[Model]) -> None:
    number = serve.run(square.bind()).remote(2)
    text = handle.remote(number)
    reveal_type(text)  #: DeploymentResponse[str]
    reveal_type(handle.remote(number, text))  #: DeploymentResponse[str]
    reveal_type(handle.remote(1, text))  #: DeploymentResponse[str]
    #: DeploymentResponse[float]
    reveal_type(handle.options(method_name=Model.predict).remote(text, number))
    handle.remote(text)  #! mypy arg-type; plugin arg-type; pyright reportCallIssue reportArgumentType
    handle.remote(1, note=text)  #! mypy call-overload; pyright reportCallIssue reportArgumentType


async def streams(handle: DeploymentHandle[Model]) -> None:
    stream = handle.options(method_name=Model.tokens, stream=True)
    reveal_type(stream.remote(3))  #: DeploymentResponseGenerator[bytes]
    async for token in stream.remote(3):
        reveal_type(token)  #: bytes
    for item in handle.options(stream=True, method_name=Model.items).remote():
        reveal_type(item)  #: int
    #: DeploymentResponseGenerator[int]
    reveal_type(handle.options(stream=True).options(method_name=Model.items).remote())
    reveal_type(stream.options(session_id="s").remote(3))  #: DeploymentResponseGenerator[bytes]
    #: DeploymentResponse[float]
    reveal_type(stream.options(stream=False, method_name=Model.predict).remote("", 1))
    stream.remote("3")  #! mypy call-overload; plugin arg-type; pyright reportCallIssue reportArgumentType
    #! mypy misc; plugin misc; pyright reportAttributeAccessIssue
    handle.options(method_name=Model.predict, stream=True).remote("", 1)


def any_target(handle: DeploymentHandle, flag: bool, of_any: DeploymentHandle[Any]) -> None:
    reveal_type(handle)  #: DeploymentHandle[Any]
    reveal_type(handle.remote(1, "a", b=2))  #: Any
    reveal_type(of_any.remote())  #: Any
    reveal_type(handle.predict.remote(1))  #: Any
    reveal_type(handle.options(method_name="predict").remote(1))  #: Any
    reveal_type(handle.options(stream=True).remote(1))  #: DeploymentResponseGenerator[Any]
    reveal_type(handle.options(stream=True).tokens.remote(1))  #: DeploymentResponseGenerator[Any]
    reveal_type(handle.options(stream=flag).remote(1))  #: Any


def assignments(model: DeploymentHandle[Model], function: DeploymentHandle[Callable[[int], str]]) -> None:
    anything: DeploymentHandle = model
    back: DeploymentHandle[Model] = anything
    wide: DeploymentHandle[object] = model
    #! mypy assignment; plugin assignment; pyright reportAssignmentType
    other: DeploymentHandle[Silent] = model
    response: DeploymentResponse[object] = function.remote(3)
    print(back, wide, other, response)
    reveal_type(function.remote(3))  #: DeploymentResponse[str]
