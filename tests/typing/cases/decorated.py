"""Decorated classes. mypy does not apply class decorators, so it needs the plugin; pyright applies them."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, reveal_type

import serve_lite as serve
from serve_lite import Deployment

T = TypeVar("T")


async def asgi(scope: object, receive: object, send: object) -> None: ...


@serve.deployment
class Model:
    name: int = 3

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, x: int) -> str:
        return str(x)

    def predict(self, text: str) -> float:
        return len(text) / self.size

    def user_config(self) -> bytes:
        return b""


@serve.deployment(num_replicas=2)
@serve.ingress(asgi)
class Door:
    def width(self) -> int:
        return 1


@serve.deployment
class Concrete(ABC):
    @abstractmethod
    def method(self) -> int: ...


@serve.deployment(name="box")
class Box(Generic[T]):
    def get(self) -> list[T]:
        return []


def surface() -> None:
    reveal_type(Model.bind(1))  #: Application[Model]; mypy nothing; mypy! attr-defined
    #: Application[Model]; mypy nothing; mypy! attr-defined
    reveal_type(Model.options(num_replicas=2).bind(1))
    reveal_type(Door.bind())  #: Application[Door]; mypy nothing; mypy! attr-defined
    reveal_type(Concrete.bind())  #: Application[Concrete]; mypy nothing; mypy! attr-defined
    reveal_type(Model.func_or_class(1))  #: Model; mypy nothing; mypy! attr-defined
    reveal_type(Model.func_or_class(1).predict("a"))  #: float; mypy nothing; mypy! attr-defined
    reveal_type(Door.num_replicas)  #: int; mypy nothing; mypy! attr-defined
    reveal_type(Door.name)  #: str; mypy nothing; mypy! attr-defined
    Door.options(num_replica=3)  #! mypy attr-defined; plugin call-arg; pyright reportCallIssue
    Door.bnd()  #! mypy attr-defined; plugin attr-defined; pyright reportAttributeAccessIssue


def takes(deployment: Deployment) -> None: ...


def calls() -> None:
    handle = serve.run(Model.bind(1))  #! mypy attr-defined
    reveal_type(handle.remote(1))  #: DeploymentResponse[str]; mypy Any
    handle.remote("a")  #! plugin arg-type; pyright reportCallIssue reportArgumentType
    reveal_type(handle.predict.remote("a"))  #: Any; plugin DeploymentResponse[float]
    #: DeploymentResponse[float]; mypy DeploymentResponse[Any]; mypy! attr-defined
    reveal_type(handle.options(method_name=Model.func_or_class.predict).remote("a"))
    takes(Model)  #! mypy arg-type
