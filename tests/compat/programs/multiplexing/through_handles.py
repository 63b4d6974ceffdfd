"""With a handle the model's id is an option; further calls do not inherit it, they name their own."""

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Voices:
    @serve.multiplexed(max_num_models_per_replica=3)
    async def load(self, voice: str) -> str:
        return {"alto": "~", "bass": "_", "tenor": "^"}[voice]

    async def sing(self, text: str) -> str:
        note = await self.load(serve.get_multiplexed_model_id())
        return note.join(text)


@serve.deployment
class Choir:
    def __init__(self, voices: DeploymentHandle) -> None:
        self.voices = voices

    async def perform(self, text: str) -> list[str]:
        own = serve.get_multiplexed_model_id()
        parts = [self.voices.options(multiplexed_model_id=voice) for voice in ("alto", "bass")]
        return [f"for {own}", *[await part.sing.remote(text) for part in parts]]


handle = serve.run(Choir.bind(Voices.bind()))

answer = handle.options(multiplexed_model_id="sunday").perform.remote("la la")
assert answer.result() == ["for sunday", "l~a~ ~l~a", "l_a_ _l_a"]
