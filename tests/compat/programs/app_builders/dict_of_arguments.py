"""An application builder is a function of its arguments; the same one serves small and large set-ups."""

import serve_lite as serve
from serve_lite import Application


@serve.deployment
class Model:
    def __init__(self, size: str) -> None:
        self.layers = {"small": 2, "large": 12}[size]

    def predict(self, value: float) -> float:
        return value * self.layers


@serve.deployment
class Cached:
    def __init__(self, model) -> None:
        self.model, self.known = model, {}

    async def predict(self, value: float) -> float:
        if value not in self.known:
            self.known[value] = await self.model.predict.remote(value)
        return self.known[value]


def build(args: dict[str, str]) -> Application:
    model = Model.bind(args["size"])
    return Cached.bind(model) if args.get("cache") == "yes" else model


small = serve.run(build({"size": "small"}), name="small", route_prefix=None)
large = serve.run(build({"size": "large", "cache": "yes"}), name="large", route_prefix=None)

assert small.predict.remote(1.5).result() == 3.0
assert large.predict.remote(1.5).result() == 18.0
assert list(serve.status().applications["small"].deployments) == ["Model"]
assert sorted(serve.status().applications["large"].deployments) == ["Cached", "Model"]
