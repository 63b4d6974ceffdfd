"""A cgroup of the test's own, handed over as systemd would: real limits, for tests where the kernel allows it.

That is so on a machine or in a container with cgroup v2 that this process may part (`policy/cgroups.py`): as root
without systemd, or with `systemd-run --user --scope -p Delegate=yes`. Elsewhere the tests are skipped and say why.
A kernel in a process does too: User-mode Linux, with the machine's own files as its root (`rootfstype=hostfs`) and
a script as `init=` that mounts /proc, /sys and cgroup2 and runs these tests.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_lite.controller.cgroups import find_base, part
from serve_lite.policy.cgroups import NoParting, folder_of, memberships, mounts, unified_mount

_PATIENCE_S = 20.0


@contextlib.contextmanager
def delegated(name: str) -> Iterator[Path]:
    """Make a cgroup that is marked as handed over, and take it away with all that is in it."""
    found = find_base()
    if isinstance(found, NoParting):
        pytest.skip(f"no cgroups can be made here: {found.reason}")
    part(found.base)
    folder = Path(found.base, name)
    folder.mkdir()
    try:
        os.setxattr(folder, "user.delegate", b"1")
        yield folder
    finally:
        for below in sorted(folder.rglob("*"), reverse=True):
            if below.is_dir():
                _remove(below)
        _remove(folder)


@pytest.fixture
def handed_over(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cgroup that was handed over to the test; an instance has it if it is started within `moved_into`."""
    with delegated(f"test-{os.getpid()}-{request.node.name[:40]}") as folder:
        yield folder


@contextlib.contextmanager
def moved_into(folder: Path) -> Iterator[None]:
    """Be in this cgroup for a while; what is started meanwhile stays there."""
    before = _own()
    enter(folder)
    try:
        yield
    finally:
        enter(before)


def enter(folder: Path) -> None:
    (folder / "cgroup.procs").write_text("0")


def members(folder: Path) -> set[int]:
    return {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}


def _own() -> Path:
    mount = unified_mount(mounts(Path("/proc/self/mountinfo").read_text()))
    own = memberships(Path("/proc/self/cgroup").read_text())
    assert mount is not None
    return Path(folder_of(next(m.path for m in own if not m.controllers), mount))


def _remove(folder: Path) -> None:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return folder.rmdir()
        except OSError as error:
            assert error.errno == errno.EBUSY and time.monotonic() < give_up_at, error
        for pid in members(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
