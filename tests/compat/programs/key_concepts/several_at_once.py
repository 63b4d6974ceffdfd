"""`run_many` deploys several applications together and returns their handles in the same order."""

import serve_lite as serve


@serve.deployment
class Exchange:
    def __init__(self, currency: str, rate: float) -> None:
        self.currency, self.rate = currency, rate

    def __call__(self, euros: float) -> str:
        return f"{euros * self.rate:.2f} {self.currency}"


rates = {"USD": 1.25, "CHF": 0.95, "JPY": 160.0}
targets = [
    serve.RunTarget(Exchange.bind(currency, rate), name=currency, route_prefix=f"/{currency.lower()}")
    for currency, rate in rates.items()
]
handles = serve.run_many(targets)

answers = [handle.remote(10) for handle in handles]
assert [answer.result() for answer in answers] == ["12.50 USD", "9.50 CHF", "1600.00 JPY"]
