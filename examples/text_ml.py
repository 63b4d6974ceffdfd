"""Which language is this, and is it meant kindly? Two models as two deployments, composed by a third.

    serve run examples.text_ml:app
    curl -d '{"text": "What a lovely day!"}' http://127.0.0.1:8000/

The models are small and inside their packages: py3langid knows 140 languages, VADER the mood of English.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Language:
    """Names the language of a text."""

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def detect(self, text: str) -> tuple[str, float]:
        """Return the ISO 639-1 code and the probability."""
        code, probability = self._model.classify(text)
        return code, round(float(probability), 4)


@serve.deployment
class Sentiment:
    """Weighs the mood of an English text."""

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._model = SentimentIntensityAnalyzer()

    def score(self, text: str) -> float:
        """Return -1 (hostile) to 1 (delighted)."""
        return float(self._model.polarity_scores(text)["compound"])


@serve.deployment
class TextAnalysis:
    """Answers `{"text": ...}` with the language and, where a model knows it, the sentiment."""

    def __init__(self, language: DeploymentHandle, sentiment: DeploymentHandle) -> None:
        self._language = language
        self._sentiment = sentiment

    async def __call__(self, request: Request) -> Any:
        body = await _json_object(request)
        text = body.get("text")
        if not isinstance(text, str) or not text.strip():
            return JSONResponse({"error": 'send a JSON object like {"text": "..."}'}, status_code=422)

        language, probability = await self._language.detect.remote(text)
        sentiment = await self._sentiment.score.remote(text) if language == "en" else None
        return {"language": language, "probability": probability, "sentiment": sentiment}


async def _json_object(request: Request) -> dict[str, Any]:
    """Return the body as a JSON object; an empty one if it is anything else."""
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


app = TextAnalysis.bind(Language.bind(), Sentiment.bind())
