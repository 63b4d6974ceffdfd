"""A gauge shows how much there is now, a histogram how values are spread over its boundaries."""

import os

import httpx

import serve_lite as serve
from serve_lite import metrics

METRICS = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_ADMIN_PORT', 52365)}/metrics"


@serve.deployment
class Parcels:
    def __init__(self) -> None:
        self.inside = 0
        self.waiting = metrics.Gauge("parcels_waiting", "Parcels in the house.")
        self.weight = metrics.Histogram("parcel_weight_kg", "Their weights.", boundaries=[1, 5, 20])

    async def receive(self, weight: float) -> None:
        self.inside += 1
        self.waiting.set(self.inside)
        self.weight.observe(weight)

    async def deliver(self) -> None:
        self.inside -= 1
        self.waiting.set(self.inside)


handle = serve.run(Parcels.bind())
for weight in (0.5, 3.0, 4.0, 12.0, 30.0):
    handle.receive.remote(weight).result()
handle.deliver.remote().result()

found = {}
for line in httpx.get(METRICS).text.splitlines():
    if line.startswith("parcel"):
        series, value = line.rsplit(maxsplit=1)
        bound = series.partition('le="')[2].partition('"')[0]
        found[series.partition("{")[0] + (f" {float(bound)}" if bound else "")] = float(value)

assert found["parcels_waiting"] == 4
assert [found[f"parcel_weight_kg_bucket {bound}"] for bound in ("1.0", "5.0", "20.0", "inf")] == [1, 3, 4, 5]
assert (found["parcel_weight_kg_count"], found["parcel_weight_kg_sum"]) == (5, 49.5)
