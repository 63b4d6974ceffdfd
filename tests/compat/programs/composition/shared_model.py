"""One bound deployment used in two places is one deployment: its replicas are shared."""

import asyncio

import serve_lite as serve


@serve.deployment
class Embeddings:
    def __init__(self) -> None:
        self.calls = 0

    async def embed(self, text: str) -> int:
        self.calls += 1
        return sum(map(ord, text)) % 97

    async def count(self) -> int:
        return self.calls


@serve.deployment
class Searcher:
    def __init__(self, embeddings) -> None:
        self.embeddings = embeddings

    async def __call__(self, text: str) -> int:
        return await self.embeddings.embed.remote(text)


@serve.deployment
class Recommender(Searcher.func_or_class):
    pass


@serve.deployment
class Site:
    def __init__(self, searcher, recommender) -> None:
        self.searcher, self.recommender = searcher, recommender

    async def __call__(self, text: str) -> list[int]:
        return await asyncio.gather(self.searcher.remote(text), self.recommender.remote(text))


embeddings = Embeddings.bind()
handle = serve.run(Site.bind(Searcher.bind(embeddings), Recommender.bind(embeddings)), name="site")

first, second = handle.remote("tea").result()
assert first == second
assert serve.get_deployment_handle("Embeddings", "site").count.remote().result() == 2
assert sorted(serve.status().applications["site"].deployments) == [
    "Embeddings", "Recommender", "Searcher", "Site",
]  # fmt: skip
