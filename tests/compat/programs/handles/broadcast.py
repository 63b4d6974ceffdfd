"""`broadcast` calls a method of every replica, for example to make all of them forget what they keep."""

import serve_lite as serve


@serve.deployment(num_replicas=3)
class Exchange:
    def __init__(self) -> None:
        self.rates: dict[str, float] = {}

    def learn(self, currency: str, rate: float) -> str:
        self.rates[currency] = rate
        return serve.get_replica_context().replica_tag

    def convert(self, amount: float, currency: str) -> float:
        return amount * self.rates[currency]


handle = serve.run(Exchange.bind())

replicas = handle.broadcast("learn", "USD", 1.25).results(timeout_s=30)
assert len(set(replicas)) == 3

# Whichever replica answers, it knows the rate now.
amounts = [handle.convert.remote(100.0, "USD") for _ in range(30)]
assert {amount.result() for amount in amounts} == {125.0}
