"""More requests than there is room for: who runs, who waits, who is refused, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import anyio
import httpx
import pytest

from tests.instances import DEADLINE_S, Instance, until

HERE = Path(__file__).parent
TIMEOUT = "x-request-timeout-seconds"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "diary").touch()
    return tmp_path


async def deploy(daemon: Instance, target: str, folder: Path | None, **options: str) -> None:
    args = {} if folder is None else {"folder": str(folder)}
    status = await daemon.deploy(f"counted_app:{target}", folder=HERE, args=args, **options)
    name = options.get("name", "default")
    assert status.applications[name].status == "RUNNING", status.applications[name].message


def diary(folder: Path) -> list[tuple[str, str, str]]:
    lines = (folder / "diary").read_text().splitlines()
    return [(what, name, pid) for what, name, pid in (line.split() for line in lines)]


def started(folder: Path) -> list[str]:
    return [name for what, name, _ in diary(folder) if what == "start"]


def most_at_once(folder: Path) -> dict[str, int]:
    """Return how many calls each replica had at once, at most."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for what, _, pid in diary(folder):
        running[pid] += 1 if what == "start" else -1
        most[pid] = max(most[pid], running[pid])
    return dict(most)


async def ask(http: httpx.AsyncClient, name: str, **headers: str) -> httpx.Response:
    return await http.get("/", params={"name": name}, headers=headers)


def wide_client(daemon: Instance) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=daemon.http_url, timeout=DEADLINE_S, limits=limits)


async def test_exactly_as_many_run_and_wait_as_may_and_the_others_are_refused(
    daemon: Instance, folder: Path
) -> None:
    await deploy(daemon, "limited", folder)
    async with wide_client(daemon) as http:
        asked = [asyncio.create_task(ask(http, f"r{i}")) for i in range(40)]  # five times what has room
        await until(lambda: sum(task.done() for task in asked) == 32, "all but eight are refused")
        await until(lambda: len(started(folder)) == 4, "four run")
        refused = [task.result() for task in asked if task.done()]
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.headers["retry-after"] for answer in refused} == {"3"}  # whole seconds, rounded up
        (folder / "open").touch()
        answers = [await task for task in asked]
        assert Counter(answer.status_code for answer in answers) == {200: 8, 429: 32}
        assert sorted(started(folder)) == sorted(
            answer.text for answer in answers if answer.status_code == 200
        )
        assert all(most == 2 for most in most_at_once(folder).values())
        # What was refused has left nothing: the same number fits again.
        again = await asyncio.gather(*(ask(http, f"s{i}") for i in range(8)))
        assert {answer.status_code for answer in again} == {200}


async def test_the_limit_of_a_replica_holds_for_all_callers_together(daemon: Instance, folder: Path) -> None:
    """The proxy and three drivers, each with its own view of the replicas."""
    await deploy(daemon, "limited", folder)
    driver = (
        "import sys, serve_lite as serve\n"
        "handle = serve.get_app_handle('default')\n"
        "calls = [handle.work.remote(f'{sys.argv[1]}.{i}') for i in range(4)]\n"
        "print(sorted(call.result(timeout_s=60) for call in calls))\n"
    )
    async with wide_client(daemon) as http, anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(anyio.run_process, [sys.executable, "-c", driver, f"d{number}"])
        asked = [asyncio.create_task(ask(http, f"h{i}")) for i in range(4)]
        await until(lambda: len(started(folder)) == 4, "four run")
        (folder / "open").touch()
        assert [(await task).status_code for task in asked] == [200] * 4
    names = {f"h{i}" for i in range(4)} | {f"d{n}.{i}" for n in range(3) for i in range(4)}
    assert sorted(started(folder)) == sorted(names)  # each once
    assert all(most <= 2 for most in most_at_once(folder).values())


async def is_full(http: httpx.AsyncClient) -> bool:
    """Whether no request may wait any more. Asks with one that has little time."""
    status = (await ask(http, "probe", **{TIMEOUT: "0.1"})).status_code
    assert status in (408, 429)
    return status == 429


async def until_full(http: httpx.AsyncClient, wanted: bool) -> None:
    with anyio.fail_after(DEADLINE_S):
        while await is_full(http) is not wanted:
            pass


async def test_a_request_whose_time_is_over_while_it_waits_is_never_started_and_frees_its_place(
    daemon: Instance, folder: Path
) -> None:
    await deploy(daemon, "one_at_a_time", folder)
    async with wide_client(daemon) as http:
        first = asyncio.create_task(ask(http, "first"))
        await until(lambda: started(folder) == ["first"])
        for _ in range(3):
            assert (await ask(http, "late", **{TIMEOUT: "0.1"})).status_code == 408
        (folder / "open").touch()
        assert (await first).text == "first"
        assert (await ask(http, "last")).text == "last"
    assert started(folder) == ["first", "last"]


async def test_a_client_that_leaves_while_it_waits_frees_its_place(daemon: Instance, folder: Path) -> None:
    await deploy(daemon, "one_at_a_time", folder)
    async with wide_client(daemon) as http:
        first = asyncio.create_task(ask(http, "first"))
        await until(lambda: started(folder) == ["first"])
        waits = [asyncio.create_task(ask(http, f"leaves{i}")) for i in range(2)]
        await until(lambda: any(task.done() for task in waits), "one is refused, so the other waits")
        assert await is_full(http)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await until_full(http, False)
        (folder / "open").touch()
        assert (await first).text == "first"
        assert (await ask(http, "last")).text == "last"
    assert started(folder) == ["first", "last"]


async def test_a_call_inherits_its_requests_time_and_is_not_started_after_it(
    daemon: Instance, folder: Path
) -> None:
    """Ten requests have called a deployment that is busy; their time passes while the calls wait."""
    await deploy(daemon, "composed", folder)
    async with wide_client(daemon) as http:
        first = asyncio.create_task(ask(http, "first"))
        await until(lambda: started(folder) == ["first"])
        late = await asyncio.gather(*(ask(http, f"late{i}", **{TIMEOUT: "0.2"}) for i in range(10)))
        assert {answer.status_code for answer in late} == {408}
        (folder / "open").touch()
        assert (await first).text == "first"
        assert (await ask(http, "last")).text == "last"
    assert started(folder) == ["first", "last"]


async def test_another_application_goes_on_while_one_is_flooded(daemon: Instance, folder: Path) -> None:
    """Its requests are all answered while a hundred others wait for, or are refused by, a stuck application."""
    await deploy(daemon, "composed", folder, name="stuck", route_prefix="/stuck")
    await deploy(daemon, "neighbour", None, name="well", route_prefix="/well")
    async with wide_client(daemon) as http, httpx.AsyncClient(base_url=daemon.http_url) as other:
        flood = [
            asyncio.create_task(http.get("/stuck", params={"name": f"r{i}"}, headers={TIMEOUT: "60"}))
            for i in range(100)
        ]
        await until(lambda: len(started(folder)) == 1)
        for _ in range(200):
            assert (await other.get("/well")).text == "well"
        assert not any(task.done() for task in flood)
        assert len(started(folder)) == 1
        (folder / "open").touch()
        assert {answer.status_code for answer in await asyncio.gather(*flood)} == {200}
