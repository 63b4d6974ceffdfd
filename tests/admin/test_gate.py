"""The gate in front of the control plane: who is let in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_lite.admin.auth import IS_OWNER, LOOPBACK_NAMES, Gate, check_listener, judge, judge_bearer
from serve_lite.exceptions import InvalidConfigError
from tests.admin.tokens import TOKEN, tokens_in


def status(*headers: tuple[str, str], scheme: str = "http") -> int:
    """Return the status a request with these headers is refused with; 200 if it may pass."""
    refusal = judge(scheme, raw(*headers), LOOPBACK_NAMES)
    return 200 if refusal is None else refusal.status


def raw(*headers: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:52365", "127.0.0.1:1", "[::1]:52365", "LOCALHOST", "localhost."]
)
def test_names_of_this_machine_are_let_in(host: str) -> None:
    assert status(("host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:52365",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "127.0.0.1@evil.example",
        "evil.example#localhost",
        "localhost/..",
        "localhost:x",
        "",
    ],
)
def test_a_rebound_name_is_refused(host: str) -> None:
    assert status(("host", host)) == 403


def test_a_request_without_a_host_or_with_two_is_refused() -> None:
    assert status() == 400
    assert status(("host", "localhost"), ("host", "evil.example")) == 400


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:3000", "https://localhost:52365", "null", "http://localhost"],
)
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert status(("host", "localhost:52365"), ("origin", origin)) == 403


def test_our_own_pages_are_let_in() -> None:
    own = ("host", "localhost:52365"), ("origin", "http://localhost:52365")
    assert status(*own) == 200
    assert status(*own, scheme="ws") == 200


@pytest.mark.parametrize(
    ("site", "expected"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_a_browser_that_tells_where_the_request_came_from_is_believed(site: str, expected: int) -> None:
    assert status(("host", "localhost"), ("sec-fetch-site", site)) == expected


@pytest.mark.parametrize(
    ("authorization", "is_let_in"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        ("Bearer wrong", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}0", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("is_owner", [True, False])
def test_a_token_that_is_borne_must_be_right_whoever_bears_it(
    authorization: str, is_let_in: bool, is_owner: bool, tmp_path: Path
) -> None:
    refusal = judge_bearer(raw(("authorization", authorization)), tokens_in(tmp_path), is_owner=is_owner)
    assert (refusal is None) is is_let_in
    if refusal is not None:
        assert (refusal.status, refusal.challenge[:6]) == (401, "Bearer")
        assert TOKEN not in refusal.message


def test_two_tokens_are_none(tmp_path: Path) -> None:
    twice = raw(("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}"))
    assert judge_bearer(twice, tokens_in(tmp_path), is_owner=True) is not None


def test_without_a_token_only_the_owner_is_let_in(tmp_path: Path) -> None:
    assert judge_bearer([], tokens_in(tmp_path), is_owner=True) is None
    refusal = judge_bearer([], tokens_in(tmp_path), is_owner=False)
    assert refusal is not None
    assert "serve token show" in refusal.message


@pytest.mark.parametrize(
    "header",
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"],
)
def test_a_proxy_of_the_owner_does_not_lend_others_its_name(header: str, tmp_path: Path) -> None:
    refusal = judge_bearer(raw((header, "203.0.113.7")), tokens_in(tmp_path), is_owner=True)
    assert refusal is not None
    assert "proxy" in refusal.message


async def gate_answers(gate: Gate, scope: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the gate reads nothing")

    async def send(message: Any) -> None:
        sent.append(message)

    await gate(scope, receive, send)
    return sent


async def passed(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "passed"})


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.0.1", "passed"), ("192.168.1.5", "http.response.start")]
)
async def test_where_other_machines_can_reach_the_listener_the_owner_needs_the_token_too(
    address: str, expected: str, tmp_path: Path
) -> None:
    gate = Gate(passed, host=address, address=address, tokens=tokens_in(tmp_path))
    scope = {"type": "http", "headers": raw(("host", address)), "state": {IS_OWNER: True}}
    assert (await gate_answers(gate, scope))[0]["type"] == expected
    bearing = {**scope, "headers": raw(("host", "any.name"), ("authorization", f"Bearer {TOKEN}"))}
    if address != "127.0.0.1":  # other machines have names for us that we do not know
        assert (await gate_answers(gate, bearing))[0]["type"] == "passed"


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_refusal_says_why_to_websockets_too(kind: str, tmp_path: Path) -> None:
    gate = Gate(passed, host="localhost", address="127.0.0.1", tokens=tokens_in(tmp_path))
    scope = {
        "type": kind,
        "headers": raw(("host", "localhost")),
        "extensions": {"websocket.http.response": {}},
    }
    start, body = await gate_answers(gate, scope)
    assert start["type"].endswith("http.response.start")
    assert start["status"] == 401
    assert "token" in json.loads(body["body"])["error"]
    closed = await gate_answers(gate, {"type": "websocket", "headers": [], "extensions": {}})
    assert [message["type"] for message in closed] == ["websocket.close"]


async def test_an_instance_whose_token_others_can_read_lets_nobody_in_by_it(tmp_path: Path) -> None:
    gate = Gate(passed, host="localhost", address="127.0.0.1", tokens=tokens_in(tmp_path))
    scope = {"type": "http", "headers": raw(("host", "localhost"), ("authorization", f"Bearer {TOKEN}"))}
    assert [m["type"] for m in await gate_answers(gate, scope)] == ["passed"]
    (tmp_path / "token").chmod(0o644)
    start, body = await gate_answers(gate, scope)
    assert start["status"] == 401
    assert str(tmp_path) not in body["body"].decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_a_loopback_listener_needs_no_token(host: str) -> None:
    check_listener(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com", "::1:2"])
def test_a_listener_that_others_can_reach_needs_a_token(host: str, tmp_path: Path) -> None:
    check_listener(host, tokens_in(tmp_path))
    with pytest.raises(InvalidConfigError, match="token"):
        check_listener(host, None)
