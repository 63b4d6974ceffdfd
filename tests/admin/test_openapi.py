"""The description of the REST API: whole, true and readable by tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from starlette.applications import Starlette
from starlette.routing import Route

from serve_lite.admin import app as admin
from serve_lite.admin.app import ENDPOINTS, build_app
from serve_lite.admin.openapi import describe, has_usual_slash, parameters_of
from serve_lite.document_schema import document_schema
from tests.admin.reference import APP1, PUT_V1, PUT_V2
from tests.admin.test_rest import Options, RememberingController
from tests.admin.tokens import TOKEN, tokens_in
from tests.instances import Instance

DESCRIPTION = describe(ENDPOINTS)
SCHEMAS = DESCRIPTION["components"]["schemas"]


@pytest.fixture
def routes() -> list[Route]:
    """What the application really answers."""
    inner = build_app(RememberingController(), Options())._app  # type: ignore[attr-defined]  # behind the gate
    assert isinstance(inner, Starlette)
    return [route for route in inner.routes if isinstance(route, Route)]


def test_every_route_and_method_is_described_and_nothing_else(routes: list[Route]) -> None:
    there = {(method, route.path) for route in routes for method in (route.methods or ()) if method != "HEAD"}
    described = {(e.method, e.path) for e in ENDPOINTS} | {
        (e.method, f"{e.path}/") for e in ENDPOINTS if e.has_slash
    }
    assert there - described == set(), "declare them in ENDPOINTS beside their handlers"
    assert described - there == set(), "they are declared and have no route"


def test_ids_and_paths_are_used_once() -> None:
    ids = [e.id for e in ENDPOINTS]
    assert len(set(ids)) == len(ids)
    places = [(e.method, e.path) for e in ENDPOINTS]
    assert len(set(places)) == len(places)


def test_every_name_in_a_path_is_a_parameter() -> None:
    for endpoint in ENDPOINTS:
        in_path = {part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")}
        assert in_path == {p.name for p in parameters_of(endpoint) if p.place == "path"}, endpoint.id


def test_the_description_is_valid_openapi_3_1() -> None:
    schema = schemathesis.openapi.from_dict(DESCRIPTION)
    schema.validate()
    assert schema.specification.version == "3.1.0"
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) == len(ENDPOINTS)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_schema_is_valid_and_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    used = {ref.rpartition("/")[2] for ref in references(DESCRIPTION)}
    assert used == set(SCHEMAS)


def fits(name: str, document: Any) -> bool:
    whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}}
    return bool(jsonschema.Draft202012Validator(whole).is_valid(document))


def test_documents_are_described_as_for_editors() -> None:
    several = document_schema()
    assert fits("Config", PUT_V2)
    assert fits("SingleApplicationConfig", PUT_V1)
    assert not fits("Config", PUT_V1)
    assert not fits("Config", {"applications": [{**APP1, "host": "x"}]})
    assert not fits("Config", {"applications": [{"name": "x"}]})
    assert set(SCHEMAS["Config"]["properties"]) == set(several["anyOf"][0]["properties"])


def test_every_refusal_has_the_shape_that_refusals_have() -> None:
    for path, operations in DESCRIPTION["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    (content,) = response["content"].values()
                    assert content["schema"] == {"$ref": "#/components/schemas/Refused"}, (method, path)
                assert response["description"]


def test_ray_serves_own_paths_are_written_as_in_its_reference() -> None:
    assert {"/api/serve/deployments/", "/api/serve/applications/", "/api/serve/deployments/status"} <= set(
        DESCRIPTION["paths"]
    )
    assert all(
        e.path in ("/api/serve/deployments", "/api/serve/applications")
        for e in ENDPOINTS
        if has_usual_slash(e)
    )


@pytest.mark.parametrize("path", ["/openapi.json", "/api/serve/openapi.json"])
async def test_an_instance_serves_it_behind_the_gate(daemon: Instance, path: str) -> None:
    answer = await daemon.admin.get(path)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(DESCRIPTION))
    assert answer.json()["info"]["version"] == admin.openapi.__version__
    for headers in (
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
    ):
        for method in ("GET", "TRACE"):
            assert (await daemon.admin.request(method, path, headers=headers)).status_code == 403
    assert (await daemon.admin.post(path)).status_code == 405


async def test_the_gate_stands_before_every_endpoint_and_asks_for_the_token(tmp_path: Path) -> None:
    app = build_app(RememberingController(), Options(), tokens=tokens_in(tmp_path))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:52365") as client:
        for endpoint in ENDPOINTS:
            for method in (endpoint.method, "BREW", "OPTIONS"):
                answer = await client.request(method, endpoint.path)
                assert (answer.status_code, set(answer.json())) == (401, {"error", "path"}), endpoint.id
                foreign = {"host": "evil.example", "authorization": f"Bearer {TOKEN}"}
                assert (await client.request(method, endpoint.path, headers=foreign)).status_code == 403
