"""`@serve.ingress`: the class stays the class."""

from typing import Any, reveal_type

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


async def app(scope: Any, receive: Any, send: Any) -> None: ...


@serve.ingress(app)
class Door:
    def __init__(self, size: int) -> None:
        self.size = size

    def width(self) -> int:
        return self.size


deployed = serve.deployment(Door)


def types(handle: DeploymentHandle[Door]) -> None:
    reveal_type(Door(1))  #: Door
    reveal_type(Door(1).width())  #: int
    Door("a")  #! mypy arg-type; plugin arg-type; pyright reportArgumentType
    reveal_type(deployed)  #: Deployment[Door]
    reveal_type(serve.run(deployed.bind(1)))  #: DeploymentHandle[Door]
    reveal_type(handle.options(method_name=Door.width).remote())  #: DeploymentResponse[int]
    reveal_type(handle.width.remote())  #: Any; plugin DeploymentResponse[int]
