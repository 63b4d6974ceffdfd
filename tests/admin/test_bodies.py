"""Bodies that are no documents: refused with their place, never a fault of ours, and nothing that runs is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.admin.bodies import MAX_BODY_BYTES, MAX_DEPTH, parse_object
from serve_lite.exceptions import InvalidConfigError
from tests.admin.test_rest_of_an_instance import CODE, settled
from tests.instances import Instance

V1, V2 = "/api/serve/deployments/", "/api/serve/applications/"

#: name: (body, path that is told, words that are told)
ODD: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "", "not valid JSON"),
    "half a document": (b'{"applications": [', "", "not valid JSON"),
    "YAML": (b"applications: []", "", "not valid JSON"),
    "something behind it": (b'{"applications": []} x', "", "Extra data"),
    "a list": (b"[]", "", "must be a JSON object"),
    "a text": (b'"applications"', "", "must be a JSON object"),
    "null": (b"null", "", "must be a JSON object"),
    "no UTF-8": (b'{"applications": "\xff"}', "", "not UTF-8"),
    "UTF-16": ('{"applications": []}'.encode("utf-16"), "", "not UTF-8"),
    "a mark of the byte order": (b"\xef\xbb\xbf{}", "", "BOM"),
    "a control character": (b'{"a": "\x00"}', "", "not valid JSON"),
    "NaN": (b'{"target_capacity": NaN}', "", "NaN"),
    "infinity": (b'{"target_capacity": -Infinity}', "", "Infinity"),
    "a float that is too large": (b'{"target_capacity": 1e999}', "target_capacity", "range of a float"),
    "a number of 65 bits": (b'{"applications": [{"args": {"n": 18446744073709551616}}]}',
                            "applications[0].args.n", "64 bits"),
    "a number of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "", "not valid JSON"),
    "half of a surrogate pair": (b'{"applications": [{"name": "\\ud83d"}]}', "applications[0].name", "surrogate"),
    "half of one in a key": (b'{"applications": [{"\\udc00": 1}]}', "applications[0]", "not valid Unicode"),
    "a key twice": (b'{"applications": [], "applications": []}', "applications", "given twice"),
    "a key twice inside": (b'{"applications": [{"name": "a", "x": {"y": 1, "y": 2}}]}',
                           "applications[0].x.y", "given twice"),
    "lists in lists": (b'{"applications": ' + b"[" * 100_000, "", "inside each other"),
    "objects in objects": (b'{"a":' * 500 + b"1" + b"}" * 500, "", "inside each other"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_an_odd_body_is_refused_with_its_place(case: str) -> None:
    body, path, words = ODD[case]
    with pytest.raises(InvalidConfigError) as caught:
        parse_object(body)
    assert words in str(caught.value)
    if case != "objects in objects":  # its path is long
        assert getattr(caught.value, "path", "") == path


def test_what_is_just_within_the_limits_is_taken() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 1):
        deep = {"a": deep}
    assert parse_object(json.dumps(deep).encode()) == deep
    with pytest.raises(InvalidConfigError, match="inside each other"):
        parse_object(json.dumps({"a": deep}).encode())
    numbers = {"numbers": [2**64 - 1, -(2**63), 1e308, -0.0, True]}
    assert parse_object(json.dumps(numbers).encode()) == numbers
    emoji = {"schlüssel": "\U0001f600", "pair": "\ud83d\ude00"}
    assert parse_object(b'{"pair": "\\ud83d\\ude00"}') == {"pair": "\U0001f600"}
    assert parse_object(json.dumps({"k": emoji["schlüssel"]}).encode()) == {"k": "\U0001f600"}


_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _ANY_JSON, max_size=4))
def test_what_is_taken_can_be_stored_and_comes_back_the_same(document: dict[str, Any]) -> None:
    try:
        taken = parse_object(json.dumps(document).encode())
    except InvalidConfigError:
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(taken)) == taken == document


@given(st.binary(max_size=64) | st.text(max_size=64).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_the_bytes_are_the_answer_is_an_object_or_a_refusal(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except InvalidConfigError as error:
        assert str(error)


# --- over the socket -----------------------------------------------------------------------------


@pytest.fixture
async def shop(daemon: Instance, tmp_path: Path) -> Instance:
    """An instance with an application that runs."""
    (tmp_path / "shop.py").write_text(CODE)
    app = {"name": "shop", "import_path": "shop:app", "runtime_env": {"working_dir": str(tmp_path)}}
    assert (await daemon.admin.put(V2, json={"applications": [app]})).status_code == 200
    assert (await settled(daemon, "shop"))["status"] == "RUNNING"
    return daemon


async def assert_refused(answer: httpx.Response, status: int = 400) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    told: dict[str, str] = answer.json()
    assert set(told) == {"error", "path"}
    assert told["error"]
    return told


#: Every route that reads a body.
TAKERS = (
    ("PUT", V1),
    ("PUT", V2),
    ("PATCH", V2),
    ("POST", f"{V2}diff"),
    ("POST", f"{V2}shop/rollback"),
    ("POST", "/api/v1/applications/shop/deployments/Hello/scale?manual=true"),
)


async def test_odd_bodies_touch_nothing_that_runs(shop: Instance) -> None:
    before, seen = await settled(shop, "shop"), (await shop.admin.get(V2)).headers["etag"]
    for method, path in TAKERS:
        for body, _, _ in ODD.values():
            for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
                headers = {"content-type": kind} if kind else {}
                await assert_refused(await shop.admin.request(method, path, content=body, headers=headers))
    assert await settled(shop, "shop") == before
    assert (await shop.admin.get(V2)).headers["etag"] == seen
    assert (await shop.http.get("/")).text == "hello world"


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_that_is_too_large_is_413(shop: Instance, is_announced: bool) -> None:
    async def pieces() -> Any:
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    content = b" " * (MAX_BODY_BYTES + 1) if is_announced else pieces()
    told = await assert_refused(await shop.admin.put(V2, content=content), 413)
    assert str(MAX_BODY_BYTES) in told["error"]
    assert (await shop.http.get("/")).text == "hello world"


async def test_a_large_document_is_taken_and_others_are_answered_meanwhile(shop: Instance) -> None:
    (app,) = (await shop.admin.get(V2)).json()["applications"].values()
    notes = {"notes": ["a sentence of some length"] * 100_000}
    app = {
        **app["deployed_app_config"],
        "deployments": [{"name": "Hello", "user_config": {"who": "x", **notes}}],
    }
    assert (await shop.admin.put(V2, json={"applications": [app]})).status_code == 200
    assert (await settled(shop, "shop"))["status"] == "RUNNING"
    assert (await shop.http.get("/")).text == "hello x"


#: (method, path with query, headers, status, path that is told)
WRONG = (
    ("PUT", f"{V2}?merge=2", {}, 400, "merge"),
    ("POST", f"{V2}diff?merge=", {}, 400, "merge"),
    ("PUT", V2, {"serve-lite-base-dir": "here"}, 400, "serve-lite-base-dir"),
    ("PUT", V1, {"serve-lite-base-dir": ""}, 400, "serve-lite-base-dir"),
    ("POST", "/api/v1/applications/shop/deployments/Hello/scale?manual=yes", {}, 400, "manual"),
    ("GET", "/api/serve/events?limit=0", {}, 400, "limit"),
    ("GET", "/api/serve/events?limit=many", {}, 400, "limit"),
    ("GET", f"/api/serve/events?limit={'9' * 400}", {}, 400, "limit"),
    ("GET", f"{V2}?api_type=all", {}, 400, "api_type"),
    ("GET", "/metrics?prefix=1", {}, 400, "prefix"),
    ("DELETE", f"{V2}%ff%00", {}, 404, ""),
    ("GET", f"{V2}nobody/history", {}, 404, ""),
    ("POST", f"{V2}nobody/rollback", {}, 404, ""),
    ("POST", "/api/v1/applications/nobody/deployments/Hello/scale", {}, 404, ""),
)


async def test_what_is_wrong_beside_the_body_is_told_too(shop: Instance) -> None:
    for method, path, headers, status, place in WRONG:
        body = b'{"target_num_replicas": 1}' if path.partition("?")[0].endswith("scale") else b"{}"
        content = None if method == "GET" else body
        told = await assert_refused(
            await shop.admin.request(method, path, headers=headers, content=content), status
        )
        assert told["path"] == place, path


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "target_num_replicas"),
        ({"target_num_replicas": -1}, "target_num_replicas"),
        ({"target_num_replicas": 1.5}, "target_num_replicas"),
        ({"target_num_replicas": "1"}, "target_num_replicas"),
        ({"target_num_replicas": True}, "target_num_replicas"),
        ({"target_num_replicas": 10**18}, "target_num_replicas"),
        ({"target_num_replicas": None}, "target_num_replicas"),
        ({"target_num_replicas": 1, "target": 2}, "target"),
    ],
)
async def test_scale_requests_are_checked_whole(shop: Instance, document: dict[str, Any], path: str) -> None:
    target = "/api/v1/applications/shop/deployments/Hello/scale?manual=true"
    told = await assert_refused(await shop.admin.post(target, json=document))
    assert told["path"] == path
    assert told["error"].startswith("Invalid request body: ")
    assert (await settled(shop, "shop"))["deployments"]["Hello"]["target_num_replicas"] == 1
