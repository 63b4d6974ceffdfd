"""`@serve.batch` turns calls that arrive together into one call with lists; each caller gets its own result."""

import numpy as np

import serve_lite as serve


@serve.deployment
class HousePrices:
    def __init__(self) -> None:
        self.weights = np.array([2.0, 30.0])
        self.batches: list[int] = []

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=5)
    async def predict(self, houses: list[tuple[float, float]]) -> list[float]:
        self.batches.append(len(houses))
        return (np.array(houses) @ self.weights).tolist()

    async def sizes(self) -> list[int]:
        return self.batches


handle = serve.run(HousePrices.bind())

houses = [(80.0 + number, 3.0) for number in range(32)]
prices = [handle.predict.remote(house) for house in houses]
assert [price.result() for price in prices] == [2 * area + 30 * rooms for area, rooms in houses]
assert handle.sizes.remote().result() == [16, 16]
