"""The hot path makes no more calls for a request than it did: counted, not timed.

`hot_path.json` has for each process on a request's way the calls that one request costs, function by function, for each
version of Python that somebody has counted with. A change that adds a tenth of them, or saves a tenth, fails here and
shows which functions they are. If that is meant: `UPDATE_HOT_PATH=1 pytest tests/benchmarks/test_hot_path.py`, and the
difference of the file is part of the change.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from tests.instances import Instance, Instances, until

HERE = Path(__file__).parent
RECORDED = HERE / "hot_path.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
UPDATES = bool(os.environ.get("UPDATE_HOT_PATH"))

REQUESTS = 300
WARM_UP = 100
MARGIN = 0.10  #: of the calls of a request, up or down

#: By application: the processes on the way of its requests.
WAYS = {
    "noop": {"daemon": "daemon", "replica": "replica noop/Noop"},
    "chain": {"caller": "replica chain/Caller", "callee": "replica chain/Callee"},
}

Calls = dict[str, int]


@pytest.fixture
async def counted(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance whose processes count when they are told to, with both applications."""
    path = os.pathsep.join([str(HERE / "counting"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("HOT_PATH_COUNTS", str(tmp_path))
    instance = await instances.start()
    for name in WAYS:
        status = await instance.deploy(f"hot_app:{name}", name=name, route_prefix=f"/{name}", folder=HERE)
        assert status.applications[name].status == "RUNNING", status
    return instance


@pytest.mark.skipif(
    not UPDATES and PYTHON not in json.loads(RECORDED.read_text()),
    reason=f"nobody has counted with Python {PYTHON}: UPDATE_HOT_PATH=1 does",
)
async def test_a_request_costs_as_many_calls_as_it_did(counted: Instance, tmp_path: Path) -> None:
    seen = {name: await calls_of(counted, name, tmp_path) for name in WAYS}
    if UPDATES:
        record(seen)
    recorded = json.loads(RECORDED.read_text())[PYTHON]
    problems = [
        told
        for name, way in WAYS.items()
        for process in way
        if (told := compared(f"{name}, {process}", recorded[name][process], seen[name][process]))
    ]
    assert not problems, "\n".join([*problems, "", (__doc__ or "").rpartition("\n\n")[2]])


async def calls_of(instance: Instance, name: str, folder: Path) -> dict[str, Calls]:
    """Return for each process on the way of an application's requests the calls that one request costs it."""
    pids = {process: max(instance.pids(title)) for process, title in WAYS[name].items()}
    await ask(instance, f"/{name}", WARM_UP)
    await switch(pids.values(), folder, "on")
    await ask(instance, f"/{name}", REQUESTS)
    await switch(pids.values(), folder, "json")
    found = {process: json.loads((folder / f"{pid}.json").read_text()) for process, pid in pids.items()}
    return {process: per_request(counts) for process, counts in found.items()}


def per_request(counts: Mapping[str, int]) -> Calls:
    """Return the calls of one request; what is called less often than every second time is no part of its way."""
    each = {function: round(count / REQUESTS) for function, count in sorted(counts.items())}
    return {function: number for function, number in each.items() if number}


async def ask(instance: Instance, path: str, requests: int) -> None:
    """Make so many requests one after another on one connection."""
    reader, writer = await asyncio.open_connection(instance.info.http_host, instance.info.http_port)
    try:
        for _ in range(requests):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            assert await reader.readexactly(5) == b"hello"
    finally:
        writer.close()
        await writer.wait_closed()


async def switch(pids: Collection[int], folder: Path, kind: str) -> None:
    """Tell processes to count, or to stop and write; return once they have said that they do."""
    files = [folder / f"{pid}.{kind}" for pid in pids]
    for pid, file in zip(pids, files, strict=True):
        file.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
    await until(lambda: all(file.exists() for file in files), f"{files} are there")


def compared(what: str, before: Calls, now: Calls) -> str:
    """Return how the calls of a request have changed, or nothing if they are about as many as they were."""
    was, total = sum(before.values()), sum(now.values())
    if abs(total - was) <= MARGIN * was:
        return ""
    changes = {f: now.get(f, 0) - before.get(f, 0) for f in {*before, *now}}
    ordered = sorted((f for f in changes if changes[f]), key=lambda f: (-abs(changes[f]), f))
    lines = [f"  {changes[f]:+} {f}" for f in ordered[:40]]
    return "\n".join([f"{what}: {total} calls a request instead of {was}:", *lines])


def record(seen: Mapping[str, Mapping[str, Calls]]) -> None:
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    recorded[PYTHON] = seen
    RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def test_a_change_of_a_tenth_is_told_with_the_functions_that_made_it() -> None:
    before = {"a.py:f": 9, "b.py:g": 1}
    assert compared("it", before, {"a.py:f": 9, "b.py:g": 2}) == ""
    told = compared("it", before, {"a.py:f": 9, "c.py:h": 3})
    assert told == "it: 12 calls a request instead of 10:\n  +3 c.py:h\n  -1 b.py:g"
    assert compared("it", before, {"a.py:f": 8}).startswith("it: 8 calls a request instead of 10")


def test_what_happens_now_and_then_is_no_part_of_a_request() -> None:
    assert per_request({"each": REQUESTS, "twice": 2 * REQUESTS + 3, "timer": REQUESTS // 3}) == {
        "each": 1,
        "twice": 2,
    }
