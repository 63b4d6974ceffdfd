"""The handles of then return references: awaited twice in async code, given to `get` in scripts."""

import serve_lite as serve
from serve_lite.handle import RayServeHandle, RayServeSyncHandle


@serve.deployment(max_concurrent_queries=10)
class Echo:
    def __call__(self, text: str) -> str:
        return text


@serve.deployment(max_concurrent_queries=10)
class Twice:
    def __init__(self, echo: RayServeHandle):
        self.echo = echo.options(use_new_handle_api=False)

    async def __call__(self, text: str) -> str:
        first = await self.echo.remote(text)
        second = await self.echo.remote(text)
        return await first + await second


handle = serve.run(Twice.bind(Echo.bind())).options(use_new_handle_api=False)
assert isinstance(handle, RayServeSyncHandle)

references = [handle.remote(word) for word in ("ha", "ho")]
assert serve.get(references) == ["haha", "hoho"]  # serve-lite only
assert serve.get(handle.remote("he"), timeout=5) == "hehe"  # serve-lite only
