"""A chain in which the ingress awaits only the end: the first response is handed to the second call as it is."""

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Adder:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __call__(self, value: int) -> int:
        return value + self.amount


@serve.deployment
class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, value: int) -> int:
        return value * self.factor


@serve.deployment
class Formula:
    def __init__(self, adder: DeploymentHandle, multiplier: DeploymentHandle) -> None:
        self.adder, self.multiplier = adder, multiplier

    async def __call__(self, value: int) -> int:
        total = self.adder.remote(value)
        product = self.multiplier.remote(total)
        return await product


handle = serve.run(Formula.bind(Adder.bind(3), Multiplier.bind(10)))
assert handle.remote(4).result() == 70
