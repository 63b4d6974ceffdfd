"""The description of the REST API that programs read: OpenAPI 3.1, at `/api/serve/openapi.json` and `/openapi.json`.

Made of what the route modules declare (`endpoints.py`), of the types that answers are made of, and of the schema that
documents are described by (`document_schema.py`), so it cannot say what the code does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serve_lite import __version__
from serve_lite.admin.endpoints import Endpoint, Parameter, Refused, Shape
from serve_lite.document_schema import document_schema

PATH = "/api/serve/openapi.json"
SHORT_PATH = "/openapi.json"
REFS = "#/components/schemas/"

#: What the gate and the framework answer on every route (`auth.py`, `app.py`).
COMMON = {
    400: "The request is wrong; nothing has changed.",
    401: "The instance has a token, and the request does not bear it.",
    403: "The request comes from a page of another site, or names another host.",
    404: "The path does not exist.",
    405: "The path exists and has not this method; `Allow` has those it has.",
    503: "The instance cannot do it now: something could not be stored or started. Nothing has changed.",
}
STALE = "The configuration is not one that `If-Match` names."
TOO_LARGE = "The body is larger than 16 MiB."

IF_MATCH = Parameter(
    name="If-Match",
    place="header",
    about="An `ETag` of an answer: refused with 412 if the configuration has changed since. Ours.",
)
IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    place="header",
    about="An `ETag` of an answer: 304 without a body if nothing at all has changed since. Ours.",
)
_TAG = {
    "description": "Names the revision of the configuration, for `If-Match`.",
    "schema": {"type": "string"},
}

ENDPOINTS = tuple(
    Endpoint(
        id=name,
        method="GET",
        path=path,
        summary="This description",
        about="OpenAPI 3.1. Ours; Ray Serve has no such thing.",
        answer={"type": "object"},
        has_slash=False,
    )
    for name, path in (("get_openapi", PATH), ("get_openapi_short", SHORT_PATH))
)


def routes(endpoints: Sequence[Endpoint]) -> list[BaseRoute]:
    """Return the routes that describe these endpoints."""

    @cache
    def page() -> bytes:
        return msgspec.json.encode(describe(endpoints))

    async def get(request: Request) -> Response:
        return Response(page(), media_type="application/json")

    return [Route(path, get, methods=["GET"]) for path in (PATH, SHORT_PATH)]


def describe(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the description of these endpoints."""
    endpoints = list(endpoints)
    types = list(dict.fromkeys([Refused, *(t for e in endpoints for t in _types(e))]))
    shapes, components = msgspec.json.schema_components(types, ref_template=REFS + "{name}")
    by_type = dict(zip(types, shapes, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        shown = endpoint.path + "/" if has_usual_slash(endpoint) else endpoint.path
        paths.setdefault(shown, {})[endpoint.method.lower()] = _operation(endpoint, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "serve-lite",
            "version": __version__,
            "description": "The control plane of one instance. Paths mean the same with and without a slash at "
            "their end. Every refusal is JSON and names the place in the document that it is about.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components | documents(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only where the instance was started with a token.",
                }
            },
        },
        "security": [{}, {"token": []}],
    }


def has_usual_slash(endpoint: Endpoint) -> bool:
    """Whether the path is written with a slash at its end, as Ray Serve's two documents are."""
    return endpoint.has_slash and endpoint.path.rpartition("/")[2] in ("applications", "deployments")


def documents() -> dict[str, Any]:
    """Return the schemas of the documents that are put, by the names they have here."""
    whole = document_schema()
    several, single = whole["anyOf"]
    found = {"Config": several, "SingleApplicationConfig": single}
    found |= {_config_name(name): schema for name, schema in whole["$defs"].items()}
    moved: dict[str, Any] = _moved(found)
    return moved


def _config_name(definition: str) -> str:
    return f"{definition.capitalize()}Config"


def _moved(schema: Any) -> Any:
    """Return a schema whose references lead to where its definitions are here."""
    if isinstance(schema, Mapping):
        return {key: _target(value) if key == "$ref" else _moved(value) for key, value in schema.items()}
    if isinstance(schema, list | tuple):
        return [_moved(value) for value in schema]
    return schema


def _target(ref: Any) -> Any:
    is_ours = isinstance(ref, str) and ref.startswith("#/$defs/")
    return REFS + _config_name(ref.rpartition("/")[2]) if is_ours else ref


def _types(endpoint: Endpoint) -> Iterator[type]:
    for shape in (endpoint.body, endpoint.answer):
        if isinstance(shape, type):
            yield shape


def _operation(endpoint: Endpoint, by_type: Mapping[type, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": endpoint.id, "summary": endpoint.summary}
    if endpoint.about:
        operation["description"] = endpoint.about
    if parameters := [_parameter(p) for p in parameters_of(endpoint)]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        schema = _schema(endpoint.body, by_type)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    operation["responses"] = _responses(endpoint, by_type)
    return operation


def parameters_of(endpoint: Endpoint) -> list[Parameter]:
    """Return all parameters of an endpoint, conditions included."""
    found = list(endpoint.parameters)
    if endpoint.is_conditional:
        found.append(IF_MATCH)
    if endpoint.is_tagged and endpoint.method == "GET":
        found.append(IF_NONE_MATCH)
    return found


def refusals_of(endpoint: Endpoint) -> dict[int, str]:
    """Return what an endpoint may refuse, by status, with the reason."""
    found = dict(COMMON)
    if endpoint.body is not None:
        found[413] = TOO_LARGE
    if endpoint.is_conditional:
        found[412] = STALE
    for status, reason in endpoint.refusals.items():
        found[status] = f"{reason} {found[status]}" if status in found and status != 404 else reason
    return dict(sorted(found.items()))


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.about,
        "schema": dict(parameter.shape),
    }


def _responses(endpoint: Endpoint, by_type: Mapping[type, Any]) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done."}
    if endpoint.answer is not None:
        done["content"] = {endpoint.media_type: {"schema": _schema(endpoint.answer, by_type)}}
    if endpoint.is_tagged:
        done["headers"] = {"ETag": _TAG}
    found: dict[str, Any] = {"200": done}
    if endpoint.is_tagged and endpoint.method == "GET":
        found["304"] = {
            "description": "The client has it already (`If-None-Match`).",
            "headers": {"ETag": _TAG},
        }
    content = {"application/json": {"schema": by_type[Refused]}}
    for status, reason in refusals_of(endpoint).items():
        found[str(status)] = {"description": reason, "content": content}
    return found


def _schema(shape: Shape, by_type: Mapping[type, Any]) -> Any:
    return by_type[shape] if isinstance(shape, type) else dict(shape)
