"""Beyond the limit the model that was not used for the longest time goes; its `__del__` is called then."""

import asyncio

import serve_lite as serve


class Model:
    def __init__(self, name: str, events: asyncio.Queue[str]) -> None:
        self.name, self.events = name, events
        events.put_nowait(f"load {name}")

    async def __del__(self) -> None:
        self.events.put_nowait(f"unload {self.name}")


@serve.deployment
class Zoo:
    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, name: str) -> Model:
        return Model(name, self.events)

    async def visit(self) -> str:
        return (await self.get_model(serve.get_multiplexed_model_id())).name

    async def next_event(self) -> str:
        return await self.events.get()


handle = serve.run(Zoo.bind())

for animal in ("lion", "zebra", "lion", "otter"):  # zebra was not seen for the longest time
    assert handle.options(multiplexed_model_id=animal).visit.remote().result() == animal

events = [handle.next_event.remote().result() for _ in range(4)]
assert sorted(events) == ["load lion", "load otter", "load zebra", "unload zebra"]
