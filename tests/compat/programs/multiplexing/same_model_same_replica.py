"""Requests for a model go to a replica that has it already, so that few replicas load it."""

import serve_lite as serve


@serve.deployment(num_replicas=3)
class Songs:
    def __init__(self) -> None:
        self.loads = 0

    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_song(self, title: str) -> str:
        self.loads += 1
        return f"la la {title}"

    async def sing(self) -> tuple[str, str]:
        song = await self.get_song(serve.get_multiplexed_model_id())
        return serve.get_replica_context().replica_tag, song

    async def count_loads(self) -> int:
        return self.loads


def sing(title: str) -> str:
    replica, song = handle.options(multiplexed_model_id=title).sing.remote().result()
    assert song == f"la la {title}"
    return replica


handle = serve.run(Songs.bind())

homes = {title: sing(title) for title in ("dawn", "noon", "dusk")}
assert sum(handle.broadcast("count_loads").results()) == 3

for _ in range(10):
    for title, home in homes.items():
        assert sing(title) == home
assert sum(handle.broadcast("count_loads").results()) == 3
