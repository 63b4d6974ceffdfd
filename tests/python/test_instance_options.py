"""Where an instance listens when nobody says: from the environment, else the well-known ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serve_lite import api
from serve_lite.config import HTTPOptions
from serve_lite.daemon.options import InstanceOptions
from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.listeners import instance_options

NAMES = {"http_port": "SERVE_LITE_HTTP_PORT", "admin_port": "SERVE_LITE_ADMIN_PORT"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES.values():
        monkeypatch.delenv(name, raising=False)


def test_without_a_word_they_are_the_well_known_ones() -> None:
    assert (InstanceOptions().http_port, InstanceOptions().admin_port) == (8000, 52365)


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("port", [0, 1, 8123, 65535])
def test_the_environment_names_a_port(monkeypatch: pytest.MonkeyPatch, field: str, port: int) -> None:
    monkeypatch.setenv(NAMES[field], str(port))
    assert getattr(InstanceOptions(), field) == port


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("text", ["65536", "-1", "http", "80.0", " 80", "٨٠"])
def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, field: str, text: str) -> None:
    monkeypatch.setenv(NAMES[field], text)
    with pytest.raises(InvalidConfigError, match=rf"{NAMES[field]} must be a port from 0 to 65535, not '"):
        InstanceOptions()


def test_an_empty_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAMES["http_port"], "")
    assert InstanceOptions().http_port == 8000


#: How a program or a command says where HTTP shall be.
WAYS: dict[str, Callable[[dict[str, object]], InstanceOptions]] = {
    "serve.start with a dict": lambda given: api._instance_options(None, given),
    "serve.start with HTTPOptions": lambda given: api._instance_options(None, HTTPOptions(**given)),
    "serve start": lambda given: instance_options("", given, None),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_port_that_is_given_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, way: Callable[[dict[str, object]], InstanceOptions]
) -> None:
    monkeypatch.setenv(NAMES["http_port"], "8123")
    assert way({"port": 9000}).http_port == 9000
    assert way({"port": 0}).http_port == 0
    assert way({"keep_alive_timeout_s": 5.0}).http_port == 8123
    assert way({}).http_port == 8123


def test_serve_run_takes_the_environments_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAMES["http_port"], "8123")
    assert api._instance_options(None, None).http_port == 8123
    assert api._instance_options(None, {"port": 8000}).http_port == 8000
