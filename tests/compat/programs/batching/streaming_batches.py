"""A batched generator streams to several callers at once; `StopIteration` in a place ends that caller's stream."""

from collections.abc import AsyncIterator

import serve_lite as serve


@serve.deployment
class Countdown:
    @serve.batch(max_batch_size=3, batch_wait_timeout_s=5)
    async def count(self, starts: list[int]) -> AsyncIterator[list]:
        for step in range(max(starts) + 1):
            yield [start - step if step <= start else StopIteration for start in starts]


handle = serve.run(Countdown.bind()).options(stream=True)

streams = [handle.count.remote(start) for start in (2, 0, 4)]
assert [list(stream) for stream in streams] == [[2, 1, 0], [0], [4, 3, 2, 1, 0]]
