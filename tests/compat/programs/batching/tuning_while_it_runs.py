"""Size and waiting time of batches come from `user_config`, so that they change without touching the code."""

import serve_lite as serve


@serve.deployment(user_config={"size": 2, "wait_s": 5})
class Labeler:
    def reconfigure(self, config: dict) -> None:
        self.label.set_max_batch_size(config["size"])
        self.label.set_batch_wait_timeout_s(config["wait_s"])

    @serve.batch
    async def label(self, names: list[str]) -> list[str]:
        return [f"{name} (1 of {len(names)})" for name in names]


def label(handle, *names: str) -> list[str]:
    responses = [handle.label.remote(name) for name in names]
    return [response.result() for response in responses]


handle = serve.run(Labeler.bind())
assert label(handle, "oak", "elm") == ["oak (1 of 2)", "elm (1 of 2)"]

handle = serve.run(Labeler.options(user_config={"size": 3, "wait_s": 5}).bind())
assert label(handle, "oak", "elm", "ash") == ["oak (1 of 3)", "elm (1 of 3)", "ash (1 of 3)"]
