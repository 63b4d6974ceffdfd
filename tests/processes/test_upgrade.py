"""`serve upgrade`: under load no request fails; a new daemon that does not come up changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

import serve_lite as serve
from serve_lite.exceptions import InstanceError
from serve_lite.wire.connection import Connection
from serve_lite.wire.messages import Empty, InstanceInfo, UpgradeReply, UpgradeRequest
from tests.cli.commands import Cli, Finished
from tests.instances import DEADLINE_S, Instance, Instances, is_running, until

HERE = Path(__file__).parent
PACKAGE = Path(serve.__file__).parent


async def upgrade(instance: Instance, *words: str) -> Finished:
    """Run `serve upgrade` for an instance."""
    return await Cli(instance.home, HERE)("upgrade", *words)


async def deploy(instance: Instance, folder: Path) -> None:
    await instance.deploy("upgraded:everything", folder=HERE, args={"folder": str(folder)})


# --- load -----------------------------------------------------------------------------------------


class Load:
    """Clients that ask again and again, and what came of it."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.is_over = False

    async def repeat(self, kind: str, once: Callable[[], Awaitable[object]]) -> None:
        while not self.is_over:
            try:
                await once()
                self.answered[kind] += 1
            except Exception as error:
                self.failed.append(f"{kind}: {type(error).__name__}: {error}")

    async def more(self, each: int = 30) -> None:
        """Return once every kind has been answered so many times more."""
        before = Counter(self.answered)
        await until(
            lambda: self.failed or all(self.answered[kind] >= n + each for kind, n in before.items()),
            "requests of every kind are answered",
        )
        assert not self.failed, self.failed


@asynccontextmanager
async def under_load(instance: Instance) -> AsyncIterator[Load]:
    load = Load()
    url = f"{instance.http_url}/pid"

    async def on_new_connection() -> None:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            (await client.get(url)).raise_for_status()

    async with anyio.create_task_group() as group, asyncio.timeout(4 * DEADLINE_S):
        handle = await anyio.to_thread.run_sync(lambda: serve.get_app_handle("default"))

        async def call() -> None:
            await handle.call.remote()

        async def on_kept_connections() -> None:
            async with httpx.AsyncClient(timeout=DEADLINE_S) as client:

                async def kept_alive() -> None:
                    (await client.get(url)).raise_for_status()

                await load.repeat("kept alive", kept_alive)

        for _ in range(3):
            group.start_soon(on_kept_connections)
        group.start_soon(load.repeat, "new connection", on_new_connection)
        group.start_soon(load.repeat, "handle", call)
        await until(lambda: len(load.answered) == 3 or load.failed, "requests of every kind are answered")
        yield load
        load.is_over = True


# --- it works -------------------------------------------------------------------------------------


async def test_no_request_fails_and_the_replicas_stay(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path)
    replicas, old, keeper = daemon.pids("replica"), await daemon.daemon_pid(), daemon.keeper_pid
    epoch = (await daemon.ask("info", Empty(), InstanceInfo)).epoch
    async with (
        under_load(daemon) as load,
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
        client.stream("GET", f"{daemon.http_url}/numbers") as stream,
        connect_websocket(f"ws{daemon.http_url.removeprefix('http')}/echo") as websocket,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "0"
        await websocket.send("where")
        served_by = await websocket.recv()
        for _ in range(2):
            before = await daemon.daemon_pid()
            done = await upgrade(daemon)
            assert done.code == 0, done
            info = await daemon.ask("info", Empty(), InstanceInfo)
            assert info.pid != before and f"(process {info.pid})" in done.out
            assert info.keeper_pid == keeper
            await load.more()
        assert is_running(old)  # it still has the stream and the WebSocket
        await websocket.send("where")
        assert await websocket.recv() == served_by
        await websocket.close()
        (tmp_path / "gate").touch()
        numbers = [line async for line in lines]
        assert numbers[-1] == "end"
        assert [int(n) for n in numbers[:-1]] == list(range(1, len(numbers)))
    assert not load.failed, load.failed
    assert daemon.pids("replica") == replicas
    assert info.epoch > epoch
    await until(lambda: not is_running(old), "the old daemon ends when it has nothing left")
    assert (await daemon.status()).applications["default"].status == "RUNNING"
    # What is new since then is the new daemon's business, and the keeper still keeps it.
    (victim,) = list(daemon.pids("daemon"))
    os.kill(victim, signal.SIGKILL)
    await until(lambda: daemon.pids("daemon") - {victim}, "the keeper starts another daemon")
    assert (await daemon.http.get("/pid")).json() in replicas


async def test_what_does_not_end_is_cut_after_the_grace(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path)
    old = await daemon.daemon_pid()
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
        client.stream("GET", f"{daemon.http_url}/numbers") as stream,
        connect_websocket(f"ws{daemon.http_url.removeprefix('http')}/echo") as websocket,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "0"
        assert (await upgrade(daemon, "--grace-period", "0.2")).code == 0
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
        await until((tmp_path / "left").exists, "the application hears of it")
        assert (tmp_path / "left").read_text() == "1012"
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in lines:
                pass
    await until(lambda: not is_running(old), "the old daemon ends")
    async with connect_websocket(f"ws{daemon.http_url.removeprefix('http')}/echo") as websocket:
        await websocket.send("again")
        await websocket.recv()


async def test_an_idle_connection_may_bring_one_more_request(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path)
    old = await daemon.daemon_pid()
    assert (await daemon.http.get("/-/healthz")).status_code == 200
    assert (await upgrade(daemon)).code == 0
    answer = await daemon.http.get(
        "/-/healthz"
    )  # on the connection to the old daemon, which must not look ill
    assert (answer.status_code, answer.headers.get("connection")) == (200, "close")
    await until(lambda: not is_running(old), "the old daemon ends")
    assert "connection" not in (await daemon.http.get("/-/healthz")).headers


async def test_the_old_daemon_follows_what_the_new_one_does(daemon: Instance, tmp_path: Path) -> None:
    """A request on an old connection reaches the replicas that there are then."""
    await deploy(daemon, tmp_path)
    replicas = daemon.pids("replica")
    assert (await daemon.http.get("/pid")).json() in replicas
    assert (await upgrade(daemon)).code == 0
    await deploy(daemon, tmp_path / "other")  # other arguments: all replicas are replaced
    await until(lambda: not daemon.pids("replica") & replicas, "the old replicas end")
    assert (await daemon.http.get("/pid")).json() in daemon.pids("replica")


async def test_a_build_goes_on_in_the_new_daemon(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'importing').touch()\n"
        "while not (here / 'gate').exists():\n"
        "    time.sleep(0.01)\n"
        "import serve_lite as serve\n"
        "@serve.deployment\n"
        "def hello(_): return 'hello'\n"
        "app = hello.bind()\n"
    )
    async with anyio.create_task_group() as group:

        async def run() -> None:
            async with await Cli(daemon.home, tmp_path).begin("run", "slow:app") as command:
                await command.until("is ready at")
                command.send(signal.SIGINT)
                assert await command.ended() == 0, command.said

        group.start_soon(run)
        await until((tmp_path / "importing").exists)
        assert (await upgrade(daemon)).code == 0
        (tmp_path / "gate").touch()
    assert not (await daemon.status()).applications


async def test_programs_hear_it_as_json(daemon: Instance) -> None:
    old = await daemon.daemon_pid()
    done = await upgrade(daemon, "--json", "--grace-period", "0")
    assert done.code == 0, done
    told = json.loads(done.out)
    assert told["before"] == {"version": serve.__version__, "pid": old}
    assert told["after"] == {"version": serve.__version__, "pid": await daemon.daemon_pid()}


async def test_two_who_ask_at_once_get_one_upgrade(daemon: Instance) -> None:
    pids: list[int] = []
    clients = [await daemon.connect(), await daemon.connect()]

    async def ask(client: Connection) -> None:
        reply = await client.control("upgrade", UpgradeRequest(), UpgradeReply, timeout_s=DEADLINE_S)
        pids.append(reply.pid)

    async with anyio.create_task_group() as group:
        for client in clients:
            group.start_soon(ask, client)
    assert pids == [await daemon.daemon_pid()] * 2
    for client in clients:
        await client.wait_closed()


async def test_without_an_instance_there_is_nothing_to_upgrade(tmp_path: Path) -> None:
    done = await Cli(str(tmp_path / "home"), tmp_path)("upgrade")
    assert done.code == 1
    assert "No instance is running in" in done.err


# --- it fails -------------------------------------------------------------------------------------


@pytest.fixture
async def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that instances run and a test may change, as `pip install -U` would."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "serve_lite", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return site / "serve_lite"


@pytest.fixture
async def released(release: Path, instances: Instances, monkeypatch: pytest.MonkeyPatch) -> Instance:
    instance = await instances.start()
    monkeypatch.setenv("SERVE_LITE_HOME", instance.home)
    return instance


def change(module: Path, addition: str) -> None:
    """Append to a module of a release."""
    module.write_text(f"{module.read_text()}\n\n{addition}")


async def test_the_new_daemon_and_the_keeper_have_the_new_code(
    release: Path, released: Instance, tmp_path: Path
) -> None:
    change(release / "__init__.py", '__version__ = "9.9.9"\n')
    (release / "daemon" / "keeper.py").write_text(
        (release / "daemon" / "keeper.py")
        .read_text()
        .replace("stopping gracefully", "stopping most gracefully")
    )
    done = await upgrade(released)
    assert done.code == 0, done
    assert "to 9.9.9 (process" in done.out
    assert (await released.ask("info", Empty(), InstanceInfo)).version == "9.9.9"
    os.kill(released.keeper_pid, signal.SIGTERM)
    await released.gone()
    assert "stopping most gracefully" in released.log("keeper.log")


#: What is wrong with a release: a module, what is appended to it, and what the command says of it.
FAULTS = {
    "it cannot be imported": ("daemon/entry.py", 'raise RuntimeError("broken release")\n', "broken release"),
    "it ends without a word": ("daemon/entry.py", "os._exit(7)\n", "ended with status 7 before it was ready"),
    "it cannot read the state": (
        "controller/store.py",
        'def _refuse(self): raise ValueError("what is this")\nStore._read = _refuse\n',
        "what is this",
    ),
    "it fails when it has the instance": (
        "daemon/daemon.py",
        'async def _fail(self, *_):\n    raise RuntimeError("no doors here")\nDaemon._open_doors = _fail\n',
        "no doors here",
    ),
    "it fails when it has changed the form of the state": (
        "daemon/daemon.py",
        "from serve_lite.controller import store_file\n"
        'store_file.STEPS += ("CREATE TABLE later (number INTEGER);",)\n'
        "store_file.SCHEMA_VERSION += 1\n"
        "async def _fail(self, *_):\n"
        '    raise RuntimeError("no doors here")\n'
        "Daemon._open_doors = _fail\n",
        "no doors here",
    ),
    "it is killed when it has the instance": (
        "daemon/daemon.py",
        "async def _fail(self, *_):\n    os.kill(os.getpid(), signal.SIGKILL)\nDaemon._open_doors = _fail\n",
        "the new daemon ended by SIGKILL before it was ready",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_new_daemon_that_fails_leaves_the_old_one(
    fault: str, release: Path, released: Instance, tmp_path: Path
) -> None:
    await deploy(released, tmp_path)
    replicas, old = released.pids("replica"), await released.daemon_pid()
    module, addition, said = FAULTS[fault]
    whole = (release / module).read_text()
    change(release / module, addition)
    async with under_load(released) as load:
        done = await upgrade(released)
        assert (done.code, done.out) == (1, "")
        assert "the running daemon goes on" in done.err and said in done.err, done.err
        assert "Traceback" in done.err or "ended" in done.err
        assert await released.daemon_pid() == old
        await load.more()
    assert not load.failed, load.failed
    assert released.pids("replica") == replicas
    # It can still do everything, and the next try may work.
    await released.deploy("served:who", name="other", route_prefix="/other", folder=HERE)
    assert (await released.http.get("/other")).status_code == 200
    (release / module).write_text(whole)
    done = await upgrade(released, "--grace-period", "0")
    assert done.code == 0, done
    assert set((await released.status()).applications) == {"default", "other"}
    await until(lambda: not is_running(old), "the old daemon ends")
    assert not list(Path(released.home).glob("*upgrade*"))


async def test_a_state_that_was_changed_is_put_back(release: Path, released: Instance) -> None:
    change(
        release / FAULTS["it fails when it has changed the form of the state"][0],
        FAULTS["it fails when it has changed the form of the state"][1],
    )
    assert (await upgrade(released)).code == 1
    from serve_lite.controller.store_file import SCHEMA_VERSION

    with sqlite3.connect(released.paths.db) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


async def test_the_successor_goes_on_when_the_old_daemon_dies_on_the_way(
    release: Path, released: Instance, tmp_path: Path
) -> None:
    await deploy(released, tmp_path)
    replicas, old = released.pids("replica"), await released.daemon_pid()
    change(
        release / "daemon" / "entry.py",
        "import pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        '(here / "loading").touch()\n'
        'while not (here / "go-on").exists():\n'
        "    time.sleep(0.01)\n",
    )
    connection = await released.connect()
    with pytest.raises(InstanceError, match="went away"):
        async with anyio.create_task_group() as group:

            async def kill() -> None:
                await until((tmp_path / "loading").exists)
                os.kill(old, signal.SIGKILL)
                await until(lambda: not is_running(old), "the old daemon is dead")
                (tmp_path / "go-on").touch()

            group.start_soon(kill)
            try:
                await connection.control("upgrade", UpgradeRequest(), UpgradeReply, timeout_s=DEADLINE_S)
            except InstanceError as error:
                await until((tmp_path / "go-on").exists)
                raised = error
        raise raised
    assert (await released.http.get("/pid")).json() in replicas
    assert released.pids("replica") == replicas
    assert "its successor goes on alone" in released.log("keeper.log")


@pytest.mark.parametrize("stage", ["loading", "starting"])
async def test_an_instance_can_be_stopped_during_an_upgrade(
    stage: str, release: Path, released: Instance, tmp_path: Path
) -> None:
    await deploy(released, tmp_path)
    wait = (
        "import pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        '(here / "stuck").touch()\n'
        'while not (here / "go-on").exists():\n'
        "    time.sleep(0.01)\n"
    )
    if stage == "loading":
        change(release / "daemon" / "entry.py", wait)
    else:
        slow = "async def _slow(self, *_):\n" + "".join(f"    {line}\n" for line in wait.splitlines())
        slow = slow.replace("    time.sleep", "    await anyio.sleep")
        change(
            release / "daemon" / "daemon.py",
            f"{slow}    await _doors(self, *_)\n_doors = Daemon._open_doors\nDaemon._open_doors = _slow\n",
        )
    async with await Cli(released.home, tmp_path).begin("upgrade") as command:
        await until((tmp_path / "stuck").exists)
        os.kill(released.keeper_pid, signal.SIGTERM)
        await until(lambda: "stopping gracefully" in released.log("keeper.log"))
        (tmp_path / "go-on").touch()
        await command.ended()
    await released.gone()
