"""Older code waits with the number of seconds as the only argument: `response.result(5)`."""

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment(max_concurrent_queries=10)
class Adder:
    def add(self, first: int, second: int) -> int:
        return first + second


handle: DeploymentHandle = serve.run(Adder.bind()).options(use_new_handle_api=True)

assert handle.add.remote(2, 3).result(5) == 5
assert handle.options(method_name="add").remote(4, 5).result(timeout_s=5) == 9
