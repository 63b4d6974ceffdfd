"""An ingress is tested without the models behind it by giving it a stand-in for their handle."""

import asyncio

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Reviews:
    def __init__(self, sentiment: DeploymentHandle) -> None:
        self.sentiment = sentiment

    async def stars(self, texts: list[str]) -> float:
        scores = await asyncio.gather(*(self.sentiment.score.remote(text) for text in texts))
        return 1 + 4 * sum(scores) / len(scores)


class FakeMethod:
    def __init__(self, answers: dict[str, float]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def remote(self, text: str) -> float:
        self.asked.append(text)
        return self.answers[text]


class FakeSentiment:
    def __init__(self, **answers: float) -> None:
        self.score = FakeMethod(answers)


fake = FakeSentiment(good=1.0, bad=0.0)
reviews = Reviews.func_or_class(fake)

assert asyncio.run(reviews.stars(["good", "bad"])) == 3.0
assert fake.score.asked == ["good", "bad"]
