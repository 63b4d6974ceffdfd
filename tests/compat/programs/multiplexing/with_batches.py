"""Batches never mix models: inside a batched function the id is the same for every item."""

import serve_lite as serve


@serve.deployment
class Tariffs:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, country: str) -> float:
        return {"at": 0.20, "lu": 0.17}[country]

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.1)
    async def gross(self, prices: list[float]) -> list[tuple[str, float]]:
        country = serve.get_multiplexed_model_id()
        rate = await self.get_model(country)
        return [(country, round(price * (1 + rate), 2)) for price in prices]


handle = serve.run(Tariffs.bind())

orders = [("at" if number % 2 else "lu", float(number)) for number in range(40)]
responses = [handle.options(multiplexed_model_id=c).gross.remote(price) for c, price in orders]
for (country, price), response in zip(orders, responses, strict=True):
    rate = {"at": 0.20, "lu": 0.17}[country]
    assert response.result() == (country, round(price * (1 + rate), 2))
