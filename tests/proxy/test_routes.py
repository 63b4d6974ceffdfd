from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.proxy.routes import RouteTable
from serve_lite.wire.messages import RouteTarget


def table(*prefixes: str) -> RouteTable:
    return RouteTable(RouteTarget(prefix=p, app=f"app{p}", deployment="D") for p in prefixes)


def found(routes: RouteTable, path: bytes) -> str | None:
    target = routes.match(path)
    return None if target is None else target.prefix


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        (b"/", "/"),
        (b"/a", "/a"),
        (b"/a/", "/a"),
        (b"/a/x", "/a"),
        (b"/a/b", "/a/b"),
        (b"/a/b/c", "/a/b"),
        (b"/a/bc", "/a"),
        (b"/ab", "/"),
        (b"/A", "/"),
        (b"//a", "/"),
        (b"/%61", "/a"),
        (b"/a%2Fb", "/a/b"),
        (b"/-/other", "/"),
    ],
)
def test_the_longest_prefix_in_whole_segments_wins(path: bytes, prefix: str) -> None:
    routes = table("/", "/a", "/a/b")
    assert found(routes, path) == prefix
    assert found(routes, path) == prefix  # and again, from the cache


def test_without_a_root_application_other_paths_match_nothing() -> None:
    routes = table("/a")
    assert [found(routes, p) for p in (b"/", b"/ab", b"", b"*", b"/b/a")] == [None] * 5


@pytest.mark.parametrize("path", [b"/-/routes", b"/-/healthz", b"/-/health%7a"])
def test_reserved_paths_belong_to_no_application(path: bytes) -> None:
    assert found(table("/", "/-"), path) is None


def test_prefixes_may_hold_any_letters() -> None:
    assert found(table("/größe"), "/größe".encode()) == "/größe"
    assert found(table("/größe"), b"/gr%C3%B6%C3%9Fe/x") == "/größe"


def test_the_listing_names_each_prefix_and_its_application() -> None:
    assert table("/", "/a").to_json() == b'{"/":"app/","/a":"app/a"}'
    assert table().to_json() == b"{}"


def test_walking_through_endless_paths_keeps_the_cache_small() -> None:
    routes = table("/a")
    for number in range(5000):
        routes.match(b"/a/%d" % number)
    assert len(routes._cache) <= 1024


@given(
    st.lists(st.sampled_from(["/", "/a", "/a/b", "/b", "/b/a/c"]), unique=True), st.text("/ab%c", max_size=12)
)
def test_a_match_is_a_prefix_and_no_longer_one_exists(prefixes: list[str], path: str) -> None:
    from urllib.parse import unquote_to_bytes

    raw = b"/" + path.encode()
    decoded = unquote_to_bytes(raw).decode("latin-1")
    fitting = [p for p in prefixes if p == "/" or decoded == p or decoded.startswith(p + "/")]
    assert found(table(*prefixes), raw) == max(fitting, key=len, default=None)
