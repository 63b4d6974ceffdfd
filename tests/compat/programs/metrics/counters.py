"""A counter in a deployment: what its replicas count is added up and shown to Prometheus, with tags."""

import os

import httpx

import serve_lite as serve
from serve_lite import metrics

METRICS = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_ADMIN_PORT', 52365)}/metrics"


@serve.deployment(num_replicas=2)
class TicketOffice:
    def __init__(self) -> None:
        self.sold = metrics.Counter("tickets_sold", "Tickets sold so far.", tag_keys=("kind",))
        self.sold.set_default_tags({"kind": "single"})

    def sell(self, number: int, kind: str | None = None) -> int:
        self.sold.inc(number, tags={"kind": kind} if kind else None)
        return number


handle = serve.run(TicketOffice.bind(), name="trains")

sales = [handle.sell.remote(2) for _ in range(10)] + [handle.sell.remote(1, "return") for _ in range(5)]
assert sum(sale.result() for sale in sales) == 25

sold = {"single": 0.0, "return": 0.0}
for line in httpx.get(METRICS).text.splitlines():
    if line.startswith("tickets_sold_total{"):
        assert 'deployment="TicketOffice"' in line and 'application="trains"' in line
        kind = "single" if 'kind="single"' in line else "return"
        sold[kind] += float(line.split()[-1])
assert sold == {"single": 20.0, "return": 5.0}
