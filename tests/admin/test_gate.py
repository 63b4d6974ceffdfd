"""The gate in front of the control plane: who is let in."""

from __future__ import annotations

import pytest

from serve_lite.admin.auth import LOOPBACK_NAMES, check_listener, judge
from serve_lite.exceptions import InvalidConfigError


def status(*headers: tuple[str, str], token: str | None = None, scheme: str = "http") -> int:
    """Return the status a request with these headers is refused with; 200 if it may pass."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    refusal = judge(scheme, raw, LOOPBACK_NAMES, token)
    return 200 if refusal is None else refusal.status


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
    ("authorization", "expected"),
    [("Bearer s3cret", 200), ("Bearer wrong", 401), ("Basic s3cret", 401), ("s3cret", 401), ("", 401)],
)
def test_where_a_token_is_set_it_must_be_borne(authorization: str, expected: int) -> None:
    assert status(("host", "localhost"), ("authorization", authorization), token="s3cret") == expected


def test_a_token_must_be_given_at_all() -> None:
    assert status(("host", "localhost"), token="s3cret") == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_a_loopback_listener_needs_no_token(host: str) -> None:
    check_listener(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com"])
def test_a_listener_that_others_can_reach_needs_a_token(host: str) -> None:
    check_listener(host, "s3cret")
    with pytest.raises(InvalidConfigError, match="token"):
        check_listener(host, None)
