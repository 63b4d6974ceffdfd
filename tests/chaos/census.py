"""Counting what a real daemon holds: objects in its memory, rows in its store, lines on its metrics page.

The instance runs a copy of the package, to whose daemon one signal is added: it writes down how many objects of each
type there are. Garbage that waits for a collection counts too: nothing is collected for the count.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import serve_lite as serve
from serve_lite.controller.store import KEPT_EVENTS
from tests.instances import Instance, Instances, until

PACKAGE = Path(serve.__file__).parent

#: Whose objects are counted: ours, and what belongs to connections, timers and tasks.
COUNTED = ("serve_lite.", "uvloop.", "hypercorn.", "anyio.", "asyncio.", "_asyncio.", "mmap.")

_COUNTS = """

import gc
import json
from collections import Counter


def _count(path):
    kinds = Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
    kinds["full collections"] = gc.get_stats()[2]["collections"]
    with open(path + ".new", "w") as file:
        json.dump(kinds, file)
    os.rename(path + ".new", path)


_uncounted = Daemon._serve


async def _counted(self, group):
    path = os.path.join(self._paths.home, "census")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _count, path)
    await _uncounted(self, group)


Daemon._serve = _counted
"""


@pytest.fixture
async def counted(
    tmp_path: Path, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Instance]:
    """An instance whose daemon can be counted."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "serve_lite", ignore=shutil.ignore_patterns("__pycache__"))
    daemon = site / "serve_lite" / "daemon" / "daemon.py"
    daemon.write_text(daemon.read_text() + _COUNTS)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    instance = await instances.start()
    monkeypatch.setenv("SERVE_LITE_HOME", instance.home)
    yield instance


async def count_objects(instance: Instance) -> Counter[str]:
    """Return how many objects of each counted type the daemon has."""
    kinds = await _ask(instance)
    return Counter({kind: n for kind, n in kinds.items() if kind.startswith(COUNTED)})


async def count_collections(instance: Instance) -> int:
    """Return how often the daemon has collected all of its garbage."""
    return (await _ask(instance))["full collections"]


async def _ask(instance: Instance) -> Counter[str]:
    path = Path(instance.home, "census")
    path.unlink(missing_ok=True)
    os.kill(await instance.daemon_pid(), signal.SIGUSR1)
    await until(path.exists, "the daemon has counted")
    return Counter(json.loads(path.read_text()))


def count_rows(instance: Instance) -> Counter[str]:
    """Return how many rows each table has; history counts only beyond what is kept of it."""
    database = sqlite3.connect(f"file:{instance.paths.db}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = Counter({t: database.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in tables})
    finally:
        database.close()
    rows["events"] = max(0, rows["events"] - KEPT_EVENTS)
    return rows


async def count_gauges(instance: Instance) -> Counter[str]:
    """Return how many series each gauge has on the metrics page. (Counters of what is gone stay for a while.)"""
    page = (await instance.admin.get("/metrics")).text
    gauges = set(re.findall(r"^# TYPE (\S+) gauge$", page, re.MULTILINE))
    names = re.findall(r"^([a-z_]+)[{ ]", page, re.MULTILINE)
    return Counter(name for name in names if name in gauges)
