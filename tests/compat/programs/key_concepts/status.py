"""`serve.status()` tells how applications and their deployments are; statuses compare equal to plain strings."""

import serve_lite as serve


@serve.deployment(num_replicas=2)
class Stock:
    def count(self, article: str) -> int:
        return {"screws": 1200, "hinges": 40}.get(article, 0)


@serve.deployment
class Counter:
    def __init__(self, stock) -> None:
        self.stock = stock

    async def __call__(self, article: str) -> bool:
        return await self.stock.count.remote(article) > 0


assert serve.status().applications == {}  # nothing runs yet

serve.run(Counter.bind(Stock.bind()), name="hardware")

app = serve.status().applications["hardware"]
assert app.status == "RUNNING"
assert {name: deployment.status for name, deployment in app.deployments.items()} == {
    "Stock": "HEALTHY",
    "Counter": "HEALTHY",
}
assert app.deployments["Stock"].replica_states == {"RUNNING": 2}

serve.delete("hardware")
assert "hardware" not in serve.status().applications
