"""Fixtures for tests of local testing mode and of `serve_lite.testing`."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import serve_lite as serve
from serve_lite import testing

#: Only a broken run waits this long for anything.
DEADLINE_S = 30.0


def until(condition: Callable[[], object], what: str) -> None:
    """Return once it is true; fail the test if that does not come."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up_at, f"in {DEADLINE_S} s it did not come true that {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def shared_instance() -> Iterator[None]:
    """Ends the instance that `serve_lite.testing` has started for this module."""
    yield
    testing._shared.close()


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Local testing mode with no instance in reach; fails the test if anything is left when all is shut down."""
    monkeypatch.setenv("SERVE_LITE_HOME", str(tmp_path / "no-instance"))
    monkeypatch.delenv("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", raising=False)
    with tempfile.TemporaryDirectory(prefix="sl-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        threads = set(threading.enumerate())
        descriptors = psutil.Process().num_fds()
        children = psutil.Process().children()
        yield Path(folder)
        serve.shutdown()
        until(lambda: set(threading.enumerate()) <= threads, "no thread is left")
        until(lambda: psutil.Process().num_fds() <= descriptors, "no descriptor is left")
        assert os.listdir(folder) == []
        assert psutil.Process().children() == children
        assert serve.status().applications == {}
