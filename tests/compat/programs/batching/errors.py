"""What a batched function raises reaches every caller of that batch, and the next batch works again."""

import serve_lite as serve


@serve.deployment
class Divider:
    @serve.batch(max_batch_size=2, batch_wait_timeout_s=5)
    async def invert(self, numbers: list[float]) -> list[float]:
        return [1 / number for number in numbers]


handle = serve.run(Divider.bind())

good, bad = handle.invert.remote(4.0), handle.invert.remote(0.0)
for response in (good, bad):
    try:
        response.result()
    except ZeroDivisionError:
        continue
    raise AssertionError("one item spoils its batch")

responses = [handle.invert.remote(number) for number in (4.0, 5.0)]
assert [response.result() for response in responses] == [0.25, 0.2]
