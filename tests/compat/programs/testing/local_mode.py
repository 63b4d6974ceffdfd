"""Local testing mode runs an application inside the test's own process, so that breakpoints and patches work."""

import os

import serve_lite as serve


@serve.deployment
class Clock:
    def now(self) -> int:
        raise NotImplementedError("tests bring their own time")

    def process(self) -> int:
        return os.getpid()


@serve.deployment
class Calendar:
    def __init__(self, clock) -> None:
        self.clock = clock

    async def is_weekend(self) -> bool:
        return await self.clock.now.remote() % 7 >= 5

    async def processes(self) -> set[int]:
        return {os.getpid(), await self.clock.process.remote()}


Clock.func_or_class.now = lambda self: 12

handle = serve.run(Calendar.bind(Clock.bind()), _local_testing_mode=True)
assert handle.is_weekend.remote().result() is True
assert handle.processes.remote().result() == {os.getpid()}
serve.delete("default")
