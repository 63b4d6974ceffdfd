# checked by: plugin
"""A module that uses decorated classes of others: what it sees of them comes from mypy's cache."""

from typing import reveal_type

import serve_lite as serve
from serve_lite.handle import DeploymentHandle
from tests.typing.cases import batching, decorated_mypy
from tests.typing.cases.decorated_mypy import Door, Model


class Extended(Model.func_or_class):
    def more(self) -> str:
        return ""


def uses(handle: DeploymentHandle[Model]) -> None:
    reveal_type(Door.options(num_replicas=2).bind(Model.bind(1)))  #: Application[Door]
    reveal_type(serve.run(decorated_mypy.Model.bind(1)).predict.remote("a"))  #: DeploymentResponse[float]
    reveal_type(Model.func_or_class(1).predict("a"))  #: float
    reveal_type(Extended(1).predict("a"))  #: float
    reveal_type(serve.deployment(Extended).bind(1))  #: Application[Extended]
    reveal_type(handle.predict.remote("a"))  #: DeploymentResponse[float]
    handle.predct.remote("a")  #! plugin attr-defined "Model" has no method "predct"
    decorated_mypy.Model(1)  #! plugin misc cannot be constructed directly


async def batched() -> None:
    reveal_type(await batching.Model().predict(numbers=1))  #: str
    reveal_type(await batching.pairs(texts="a", numbers=1))  #: float
    await batching.pairs(text="a", numbers=1)  #! plugin call-arg Unexpected keyword argument "text"
