"""`num_replicas` starts copies of a deployment, each a process of its own; requests are spread over them."""

import os

import serve_lite as serve


@serve.deployment(num_replicas=3)
class Cook:
    def whoami(self) -> int:
        return os.getpid()


handle = serve.run(Cook.bind())

cooks: set[int] = set()
while len(cooks) < 3:
    orders = [handle.whoami.remote() for _ in range(12)]
    cooks |= {order.result() for order in orders}

assert os.getpid() not in cooks
assert serve.status().applications["default"].deployments["Cook"].replica_states == {"RUNNING": 3}
