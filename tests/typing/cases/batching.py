"""`@serve.batch` and `@serve.multiplexed`: what callers see."""

from collections.abc import AsyncIterator, Sequence
from typing import reveal_type

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.batch
async def free(numbers: list[int]) -> list[str]:
    return [str(n) for n in numbers]


@serve.batch(max_batch_size=4)
async def pairs(numbers: list[int], texts: list[str]) -> list[float]:
    return [n / len(t) for n, t in zip(numbers, texts, strict=True)]


@serve.batch
async def pieces(numbers: Sequence[int]) -> AsyncIterator[list[str]]:
    yield [str(n) for n in numbers]


@serve.multiplexed
async def load(model_id: str) -> bytes:
    return model_id.encode()


class Model:
    @serve.batch
    async def __call__(self, numbers: list[int]) -> list[str]:
        return [str(n) for n in numbers]

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.1)
    async def predict(self, numbers: list[int]) -> list[str]:
        return [str(n) for n in numbers]

    @serve.batch
    async def two(self, numbers: list[int], texts: list[str]) -> list[float]:
        return [n / len(t) for n, t in zip(numbers, texts, strict=True)]

    @serve.batch(max_batch_size=2)
    async def stream(self, numbers: list[int]) -> AsyncIterator[list[bytes]]:
        yield [bytes(n) for n in numbers]

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> bytes:
        return model_id.encode()

    async def inside(self) -> None:
        reveal_type(await self.predict(1))  #: str
        reveal_type(await self.two(1, "a"))  #: float
        async for piece in self.stream(1):
            reveal_type(piece)  #: bytes
        await self.predict("a")  #! mypy arg-type; plugin arg-type; pyright reportArgumentType
        await self.predict([1])  #! mypy arg-type; plugin arg-type; pyright reportArgumentType
        await self.two(1)  #! mypy call-arg; plugin call-arg; pyright reportCallIssue
        reveal_type(await self.get_model("m"))  #: bytes
        await self.get_model(1)  #! mypy arg-type; plugin arg-type; pyright reportArgumentType

    def reconfigure(self, config: dict[str, int]) -> None:
        self.predict.set_max_batch_size(config["size"])
        self.predict.set_batch_wait_timeout_s(0.5)
        self.predict.set_max_batch_size("a")  #! mypy arg-type; plugin arg-type; pyright reportArgumentType


async def calls() -> None:
    reveal_type(await free(1))  #: str
    reveal_type(await pairs(1, "a"))  #: float
    async for piece in pieces(1):
        reveal_type(piece)  #: str
    reveal_type(await load("m"))  #: bytes
    reveal_type(await Model().predict(1))  #: str
    reveal_type(await Model.predict(Model(), 1))  #: str
    reveal_type(await Model()(1))  #: str
    await free("a")  #! mypy arg-type; plugin arg-type; pyright reportArgumentType
    await free([1])  #! mypy arg-type; plugin arg-type; pyright reportArgumentType
    free.set_max_batch_size(5)


def handles(handle: DeploymentHandle[Model]) -> None:
    reveal_type(handle.remote(1))  #: DeploymentResponse[str]
    reveal_type(handle.options(method_name=Model.predict).remote(1))  #: DeploymentResponse[str]
    reveal_type(handle.options(method_name=Model.two).remote(1, "a"))  #: DeploymentResponse[float]
    #: DeploymentResponseGenerator[bytes]
    reveal_type(handle.options(method_name=Model.stream, stream=True).remote(1))
    reveal_type(handle.predict.remote(1))  #: Any; plugin DeploymentResponse[str]
    reveal_type(handle.get_model.remote("m"))  #: Any; plugin DeploymentResponse[bytes]
    handle.remote([1])  #! mypy call-overload; plugin arg-type; pyright reportCallIssue reportArgumentType
    handle.predict.remote([1])  #! plugin arg-type
