"""The options of the instance itself: `GET /api/serve/instance`, and what a document asks of them in vain.

A running instance keeps the options that it was started with. A document that asks for others is taken all the same,
as Ray Serve does; the answer's `serve-lite-not-applied` header, a JSON list of sentences, and the log tell which.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite import __version__
from serve_lite.admin.controls import answer, routes_for
from serve_lite.admin.endpoints import Endpoint
from serve_lite.wire.messages import InstanceSettings, Setting

PATH = "/api/serve/instance"
NOT_APPLIED_HEADER = "serve-lite-not-applied"

#: Sections of a document that are the instance's business. What else it holds goes with its applications.
SECTIONS = ("http_options", "grpc_options")

logger = logging.getLogger(__name__)


class InstanceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the instance's own options."""

    version: str  #: of serve-lite
    options: tuple[Setting, ...]


ENDPOINTS = (
    Endpoint(
        id="get_instance",
        method="GET",
        path=PATH,
        summary="The options that the instance was started with, and where each comes from",
        about="Secrets are hidden. `serve config --effective` shows it. Ours; Ray Serve has no such thing.",
        answer=InstanceAnswer,
    ),
)


def routes(settings: InstanceSettings) -> list[BaseRoute]:
    """Return the route, with and without the trailing slash."""

    async def get(request: Request) -> Response:
        return answer(InstanceAnswer(version=__version__, options=settings.settings))

    return routes_for(PATH, {"GET": get})


def not_applied(document: Mapping[str, Any], settings: InstanceSettings) -> list[str]:
    """Return a sentence for each option of a checked document that the instance has otherwise."""
    actual = {setting.name: setting for setting in settings.settings}
    found = []
    for name, wanted in _asked(document):
        if name not in actual or not _is_other(name, wanted, actual[name].value):
            continue
        stays = json.dumps(actual[name].value)
        found.append(f"{name} stays {stays} ({actual[name].origin}); {json.dumps(wanted)} is not applied.")
    return found


def not_applied_header(document: Mapping[str, Any], settings: InstanceSettings) -> dict[str, str]:
    """Log what is not applied, and return the header that tells it; none if there is nothing."""
    found = not_applied(document, settings)
    for sentence in found:
        logger.warning("a deployed document asks for other options than the instance has: %s", sentence)
    return {NOT_APPLIED_HEADER: json.dumps(found)} if found else {}


def _asked(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    asked = [
        (f"{section}.{key}", value)
        for section in SECTIONS
        for key, value in (document.get(section) or {}).items()
        if key != "ssl_keyfile_password"  # neither compared nor told
    ]
    if "proxy_location" in document:
        asked.append(("proxy_location", document["proxy_location"]))
    return asked


def _is_other(name: str, wanted: object, actual: object) -> bool:
    if name == "proxy_location":  # on one machine the other places are one
        return (wanted in ("Disabled", "NoServer")) != (actual == "Disabled")
    return not (wanted == actual or (name.endswith(".port") and wanted == 0))
