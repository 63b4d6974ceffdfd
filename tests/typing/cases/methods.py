"""`handle.method`: any name passes without the plugin; with it, the method's own types."""

from collections.abc import AsyncIterator, Generator
from typing import Any, Generic, Literal, Protocol, TypeVar, overload, reveal_type

from serve_lite.handle import DeploymentHandle

T = TypeVar("T")
N = TypeVar("N", bound=float)


class Base:
    def inherited(self, x: int) -> bytes:
        return bytes(x)


class Model(Base):
    version: str = "1"

    def __call__(self, x: int) -> str:
        return str(x)

    def predict(self, text: str, limit: int = 3) -> float:
        return len(text) / limit

    async def lookup(self, *keys: bytes, **named: int) -> list[int]:
        return [len(keys), len(named)]

    async def tokens(self, n: int) -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b""

    def count(self) -> Generator[int, None, None]:
        yield 1

    @staticmethod
    def static(x: int) -> str:
        return str(x)

    @classmethod
    def made(cls, x: int) -> "Model":
        return cls()

    def same(self, value: N) -> N:
        return value

    @overload
    def twice(self, x: int) -> int: ...
    @overload
    def twice(self, x: str) -> str: ...
    def twice(self, x: Any) -> Any:
        return x * 2

    def untyped(self, x):  # type: ignore[no-untyped-def]
        return x


class Box(Generic[T]):
    def get(self) -> T:
        raise NotImplementedError

    def put(self, value: T) -> None: ...


class Predicts(Protocol):
    def predict(self, x: int) -> str: ...


class Open:
    def __getattr__(self, name: str) -> Any: ...


def calls(handle: DeploymentHandle[Model]) -> None:
    #: DeploymentHandle[Any]; plugin DeploymentHandle[(text: str, limit: int =) -> float]
    reveal_type(handle.predict)
    reveal_type(handle.predict.remote("a"))  #: Any; plugin DeploymentResponse[float]
    reveal_type(handle.predict.remote(text="a", limit=1))  #: Any; plugin DeploymentResponse[float]
    reveal_type(handle.predict.remote("a").result())  #: Any; plugin float
    reveal_type(handle.lookup.remote(b"", b"", a=1))  #: Any; plugin DeploymentResponse[list[int]]
    reveal_type(handle.inherited.remote(1))  #: Any; plugin DeploymentResponse[bytes]
    reveal_type(handle.static.remote(1))  #: Any; plugin DeploymentResponse[str]
    reveal_type(handle.made.remote(1))  #: Any; plugin DeploymentResponse[Model]
    reveal_type(handle.same.remote(1))  #: Any; plugin DeploymentResponse[int]
    reveal_type(handle.twice.remote("a"))  #: Any; plugin DeploymentResponse[str]
    handle.twice.remote(b"")  #! plugin call-overload
    reveal_type(handle.untyped.remote(1))  #: Any; plugin DeploymentResponse[Any]
    #: Any; plugin DeploymentResponse[float]
    reveal_type(handle.options(session_id="s").predict.remote("a"))
    #: Any; plugin DeploymentResponse[float]
    reveal_type(handle.predict.options(session_id="s").remote("a"))


def by_name(handle: DeploymentHandle[Model], name: str, either: Literal["predict", "lookup"]) -> None:
    reveal_type(handle.options(method_name="predict").remote("a"))  #: Any; plugin DeploymentResponse[float]
    #: DeploymentResponseGenerator[Any]; plugin DeploymentResponseGenerator[bytes]
    reveal_type(handle.options(method_name="tokens", stream=True).remote(1))
    reveal_type(handle.options(method_name=name).remote("a"))  #: Any
    reveal_type(handle.options(method_name=either).remote("a"))  #: Any
    handle.options(method_name="predct")  #! plugin attr-defined "Model" has no method "predct"
    reveal_type(handle.options(method_name="__call__").remote(1))  #: Any; plugin DeploymentResponse[str]


def mistakes(handle: DeploymentHandle[Model]) -> None:
    handle.predct.remote("a")  #! plugin attr-defined "Model" has no method "predct"; maybe "predict"?
    handle.version.remote()  #! plugin attr-defined "version" of "Model" is no method
    #! plugin arg-type has incompatible type "int"; expected "str | DeploymentResponse[str]"
    handle.predict.remote(1)
    #! plugin call-arg Missing positional argument "text" in call to "remote" of "DeploymentHandle"
    handle.predict.remote()
    handle.predict.remote("a", limits=1)  #! plugin call-arg Unexpected keyword argument "limits"
    handle.tokens.remote(3)  #! plugin misc is a generator; use "options(stream=True)"
    handle.options(stream=True).predict.remote("a")  #! plugin misc Invalid self argument
    #! plugin misc The target returns "bytes"; a call with stream=True needs a generator
    handle.options(stream=True).inherited.remote(1)


def composition(handle: DeploymentHandle[Model]) -> None:
    text = handle.remote(1)
    ratio = handle.predict.remote(text)
    reveal_type(handle.predict.remote(limit=3, text=text))  #: Any; plugin DeploymentResponse[float]
    reveal_type(handle.same.remote(ratio))  #: Any; plugin DeploymentResponse[float]
    handle.predict.remote(text, limit=ratio)  #! plugin arg-type
    handle.predict.remote([text])  #! plugin arg-type


async def streams(handle: DeploymentHandle[Model]) -> None:
    async for token in handle.options(stream=True).tokens.remote(3):
        reveal_type(token)  #: Any; plugin bytes
    for number in handle.options(stream=True).count.remote():
        reveal_type(number)  #: Any; plugin int
    #: DeploymentResponseGenerator[Any]; plugin DeploymentResponseGenerator[bytes]
    reveal_type(handle.tokens.options(stream=True).remote(3))


def targets(
    box: DeploymentHandle[Box[int]], predicts: DeploymentHandle[Predicts], open_: DeploymentHandle[Open]
) -> None:
    reveal_type(box.get.remote())  #: Any; plugin DeploymentResponse[int]
    box.put.remote("a")  #! plugin arg-type
    reveal_type(predicts.predict.remote(1))  #: Any; plugin DeploymentResponse[str]
    reveal_type(open_.anything.remote(1))  #: Any


def one_of(
    handle: DeploymentHandle[Model] | DeploymentHandle[Predicts], optional: DeploymentHandle[Model] | None
) -> None:
    handle.predict.remote(1)  #! plugin arg-type
    if optional is not None:
        reveal_type(optional.predict.remote("a"))  #: Any; plugin DeploymentResponse[float]


class Caller(Generic[T]):
    def __init__(self, model: DeploymentHandle[Model], other: DeploymentHandle[T]) -> None:
        self.model = model
        self.other = other

    async def run(self) -> float:
        reveal_type(self.other.whatever.remote())  #: Any; plugin Any
        reveal_type(await self.model.predict.remote("a"))  #: Any; plugin float
        return await self.model.predict.remote("a")  #! mypy no-any-return


def subclass_of_any(handle: DeploymentHandle[Any]) -> None:
    reveal_type(handle.whatever.remote())  #: Any
