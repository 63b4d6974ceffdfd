"""A replica can be chosen first, with a place kept free on it, and given the call when everything is ready."""

import asyncio

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment(num_replicas=2, max_ongoing_requests=1)
class Oven:
    def bake(self, cake: str) -> str:
        return f"{cake} from {serve.get_replica_context().replica_tag}"


async def main(handle: DeploymentHandle) -> None:
    async with handle.bake.choose_replica() as first, handle.bake.choose_replica() as second:
        assert first.replica_id != second.replica_id  # each has room for one
        cakes = [handle.bake.dispatch(second, "lemon cake"), handle.bake.dispatch(first, "plum cake")]
        lemon, plum = await asyncio.gather(*cakes)
    assert lemon.startswith("lemon cake from ") and plum.startswith("plum cake from ")
    assert lemon.split()[-1] != plum.split()[-1]


asyncio.run(main(serve.run(Oven.bind())))
