"""Bound deployments may sit anywhere in the arguments: in dicts, in lists, in dataclasses."""

import dataclasses

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@dataclasses.dataclass
class Route:
    name: str
    stops: list  #: of bound deployments; of handles in the replica


@serve.deployment
class Stop:
    def __init__(self, name: str, minutes: int) -> None:
        self.name, self.minutes = name, minutes

    def visit(self, clock: int) -> int:
        return clock + self.minutes


@serve.deployment
class Dispatcher:
    def __init__(self, routes: dict[str, Route]) -> None:
        self.routes = routes

    async def arrival(self, route: str, start: int) -> int:
        clock = start
        for stop in self.routes[route].stops:
            assert isinstance(stop, DeploymentHandle)
            clock = await stop.visit.remote(clock)
        return clock


station, market, harbour = Stop.bind("station", 4), Stop.bind("market", 7), Stop.bind("harbour", 11)
routes = {
    "north": Route("north line", [station, market]),
    "coast": Route("coast line", [station, harbour, market]),
}
handle = serve.run(Dispatcher.bind(routes))

assert handle.arrival.remote("north", 600).result() == 611
assert handle.arrival.remote("coast", 600).result() == 622
