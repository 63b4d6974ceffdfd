"""`examples/text_ml.py` composes two models behind a plain HTTP handler."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_lite.schema import ApplicationStatus
from tests.instances import Instance

ROOT = Path(__file__).resolve().parents[2]


async def test_english_gets_a_language_and_a_sentiment(daemon: Instance) -> None:
    await deploy(daemon)
    kind = (await daemon.http.post("/", json={"text": "I love this, it is a great day!"})).json()
    angry = (await daemon.http.post("/", json={"text": "I hate this terrible, horrible thing."})).json()
    assert kind["language"] == angry["language"] == "en"
    assert angry["sentiment"] < 0 < kind["sentiment"]


async def test_another_language_is_named_and_its_sentiment_left_open(daemon: Instance) -> None:
    await deploy(daemon)
    answer = (await daemon.http.post("/", json={"text": "Das ist ein wirklich schöner Tag."})).json()
    assert (answer["language"], answer["sentiment"]) == ("de", None)


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b'{"text": 3}', b'{"text": "  "}'])
async def test_a_body_without_a_text_is_answered_with_what_would_be_right(
    daemon: Instance, body: bytes
) -> None:
    await deploy(daemon)
    response = await daemon.http.post("/", content=body)
    assert (response.status_code, response.json()) == (
        422,
        {"error": 'send a JSON object like {"text": "..."}'},
    )


async def deploy(daemon: Instance) -> None:
    status = await daemon.deploy("examples.text_ml:app", folder=ROOT)
    application = status.applications["default"]
    assert application.status == ApplicationStatus.RUNNING, application.message
