"""Several models look at the same thing at the same time, and the ingress takes the majority's word."""

import asyncio
from collections import Counter

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class KeywordModel:
    def __init__(self, *keywords: str) -> None:
        self.keywords = keywords

    def predict(self, text: str) -> str:
        return "sports" if any(keyword in text for keyword in self.keywords) else "other"


@serve.deployment
class Ensemble:
    def __init__(self, *models: DeploymentHandle) -> None:
        self.models = models

    async def __call__(self, text: str) -> tuple[str, int]:
        votes = await asyncio.gather(*(model.predict.remote(text) for model in self.models))
        return Counter(votes).most_common(1)[0]


models = [KeywordModel.bind("goal", "team"), KeywordModel.bind("match"), KeywordModel.bind("team", "win")]
handle = serve.run(Ensemble.bind(*models))

assert handle.remote("the team scored").result() == ("sports", 2)
assert handle.remote("rain tomorrow").result() == ("other", 3)
