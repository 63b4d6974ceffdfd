"""A handle calls methods of a deployment: `handle.method.remote(...)`, and `handle.remote(...)` for `__call__`."""

import serve_lite as serve


@serve.deployment
class Account:
    def __init__(self, balance: int) -> None:
        self.balance = balance

    def __call__(self) -> str:
        return f"balance: {self.balance}"

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    async def withdraw(self, amount: int, *, fee: int = 0) -> int:
        self.balance -= amount + fee
        return self.balance


handle = serve.run(Account.bind(100))

assert handle.deposit.remote(50).result() == 150
assert handle.withdraw.remote(30, fee=1).result() == 119
assert handle.remote().result() == "balance: 119"

# The same method, named by a string.
assert handle.options(method_name="deposit").remote(1).result() == 120
