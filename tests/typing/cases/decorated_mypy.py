# checked by: plugin
"""What only mypy with the plugin can do with a decorated class: it is a class and a deployment at once."""

from typing import Any, reveal_type

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    def predict(self, text: str) -> float:
        return len(text) / self.size


@serve.deployment(max_ongoing_requests=3)
class Door:
    def __init__(self, model: DeploymentHandle[Model]) -> None:
        reveal_type(model)  #: DeploymentHandle[Model]
        self.model = model

    async def __call__(self, text: str) -> float:
        return await self.model.predict.remote(text)

    async def bad(self) -> None:
        #! plugin attr-defined "Model" has no method "predct"; maybe "predict"?
        await self.model.predct.remote("a")


class Tested(Model.func_or_class):
    def more(self) -> float:
        return self.predict("a")


app = Door.bind(Model.bind(1))


def surface(model: DeploymentHandle[Model]) -> None:
    reveal_type(app)  #: Application[Door]
    reveal_type(Model.func_or_class)  #: (size: int) -> Model
    reveal_type(Tested(1).more())  #: float
    Model(1)  #! plugin misc cannot be constructed directly
    reveal_type(Model.func_or_class(1).size)  #: int
    #: DeploymentResponse[float]
    reveal_type(model.options(method_name=Model.func_or_class.predict).remote("a"))
    any_: Any = Model
    print(any_)
