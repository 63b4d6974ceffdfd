"""Batches, model ids, the replica's context and limits are there in local testing mode too."""

import serve_lite as serve


@serve.deployment
class Painter:
    @serve.multiplexed(max_num_models_per_replica=1)
    async def palette(self, style: str) -> str:
        return {"cubist": "grey", "pop": "pink"}[style]

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.5)
    async def paint(self, things: list[str]) -> list[str]:
        colour = await self.palette(serve.get_multiplexed_model_id())
        return [f"{colour} {thing} ({len(things)})" for thing in things]

    def where(self) -> tuple[str, str]:
        context = serve.get_replica_context()
        return context.app_name, context.deployment


handle = serve.run(Painter.bind(), name="studio", _local_testing_mode=True)

pop = handle.options(multiplexed_model_id="pop")
pictures = [pop.paint.remote(thing) for thing in ("dog", "car", "can", "sun")]
assert [picture.result() for picture in pictures] == [
    "pink dog (4)",
    "pink car (4)",
    "pink can (4)",
    "pink sun (4)",
]
assert handle.where.remote().result() == ("studio", "Painter")

serve.shutdown()
