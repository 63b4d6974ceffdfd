"""A replica that keeps the models it was asked for last; the id comes with the request, as an HTTP header."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


class Phrasebook:
    def __init__(self, language: str) -> None:
        self.words = {"fi": {"thanks": "kiitos"}, "it": {"thanks": "grazie"}}[language]


@serve.deployment
class Phrases:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, language: str) -> Phrasebook:
        return Phrasebook(language)

    async def __call__(self, request: Request) -> str:
        language = serve.get_multiplexed_model_id()
        model = await self.get_model(language)
        return model.words[request.query_params["word"]]


serve.run(Phrases.bind())

for language, expected in (("fi", "kiitos"), ("it", "grazie"), ("fi", "kiitos")):
    headers = {"serve_multiplexed_model_id": language}
    answer = httpx.get(URL, params={"word": "thanks"}, headers=headers)
    assert answer.text == expected
