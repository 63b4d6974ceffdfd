"""Two bindings of one class are two deployments; the second gets a number behind its name, unless it has its own."""

import serve_lite as serve


@serve.deployment
class Scale:
    def __init__(self, tare: float) -> None:
        self.tare = tare

    def weigh(self, gross: float) -> float:
        return gross - self.tare


@serve.deployment
class Packing:
    def __init__(self, small, large, pallet) -> None:
        self.scales = {"small": small, "large": large, "pallet": pallet}

    async def net(self, kind: str, gross: float) -> float:
        return await self.scales[kind].weigh.remote(gross)


pallet = Scale.options(name="PalletScale").bind(20.0)
handle = serve.run(Packing.bind(Scale.bind(0.5), Scale.bind(2.0), pallet))

assert handle.net.remote("small", 3.0).result() == 2.5
assert handle.net.remote("large", 3.0).result() == 1.0
assert handle.net.remote("pallet", 120.0).result() == 100.0
assert sorted(serve.status().applications["default"].deployments) == [
    "Packing", "PalletScale", "Scale", "Scale_1",
]  # fmt: skip
