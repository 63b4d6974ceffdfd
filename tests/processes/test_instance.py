"""An instance from its start to its end: who starts it, where, and who may stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import msgspec
import psutil
import pytest

import serve_lite as serve
from serve_lite.daemon.options import ENVIRONMENT_NAME, paths
from serve_lite.engines import local
from serve_lite.exceptions import InstanceError, PortInUseError
from tests.instances import Instance, Instances, is_running, until

HERE = Path(__file__).parent


async def test_an_instance_serves_an_application_over_http(daemon: Instance) -> None:
    status = await daemon.deploy("served:who", folder=HERE)
    assert status.applications["default"].status == "RUNNING"
    answer = (await daemon.http.get("/")).json()
    assert answer["pid"] in daemon.pids("replica default/Who")
    assert answer["session"] == answer["pid"]  # a Ctrl-C in a terminal does not reach it
    assert answer["keys"] == []  # nothing of ours leaks into user code


@serve.deployment
class Adder:
    def __init__(self, summand: int) -> None:
        self._summand = summand

    def __call__(self, number: int) -> int:
        return number + self._summand


async def test_a_script_uses_the_instance_that_is_up(daemon: Instance) -> None:
    handle = await daemon.run(Adder.bind(3), route_prefix=None)
    assert await handle.remote(4) == 7
    assert len(daemon.pids("replica default/Adder")) == 1


async def test_processes_say_what_they_are(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    assert psutil.Process(daemon.keeper_pid).cmdline()[0].startswith("serve-lite: keeper")
    assert len(daemon.processes("daemon")) == len(daemon.processes("template")) == 1
    (replica,) = daemon.processes("replica default/Who ")
    assert replica.ppid() in daemon.pids("template")


async def test_the_admin_port_answers_although_nothing_of_it_is_loaded_before(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    for _ in range(2):
        answer = await daemon.admin.get("/api/serve/applications/")
        assert answer.status_code == 200
        assert answer.json()["applications"]["default"]["status"] == "RUNNING"


async def test_a_control_plane_that_other_machines_could_reach_is_refused(instances: Instances) -> None:
    with pytest.raises(InstanceError, match="other machines can reach it"):
        local.start_instance(instances.options(admin_host="0.0.0.0"))


async def test_everything_of_an_instance_is_for_its_user_only(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    for folder, _, files in os.walk(daemon.home):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
        for file in files:
            path = os.path.join(folder, file)
            assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path


async def test_a_keeper_can_be_started_by_hand(instances: Instances) -> None:
    options = instances.options()
    process = subprocess.Popen(
        [sys.executable, "-m", "serve_lite.daemon.keeper"],
        env={**os.environ, ENVIRONMENT_NAME: msgspec.json.encode(options).decode()},
    )
    await until(lambda: Path(paths(options.home).control).exists(), "the control socket appears")
    instance = await instances.join(options)
    assert instance.keeper_pid == process.pid
    process.send_signal(signal.SIGTERM)
    await until(lambda: process.poll() is not None, "the keeper ends")
    assert process.returncode == 0


async def test_a_port_in_use_is_told_with_the_process_that_holds_it(instances: Instances) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            local.start_instance(instances.options(http_port=port))
    assert (caught.value.host, caught.value.port) == ("127.0.0.1", port)
    assert f"process {os.getpid()} (" in str(caught.value)


async def test_an_address_of_another_machine_is_a_clear_error(instances: Instances) -> None:
    with pytest.raises(InstanceError, match=r"Cannot listen on '192\.0\.2\.1:0'.*Choose another address"):
        local.start_instance(instances.options(http_host="192.0.2.1"))


async def test_a_second_instance_in_the_same_home_is_refused(daemon: Instance) -> None:
    with pytest.raises(local.AlreadyUpError, match=f"already up .*process {daemon.keeper_pid}"):
        local.start_instance(daemon.options)
    assert (await daemon.status()).applications == {}


async def test_of_several_that_open_the_same_home_one_starts_it(instances: Instances) -> None:
    options = instances.options()
    opened = await asyncio.gather(*(local.open_instance(options) for _ in range(3)))
    await instances.join(options)
    assert sorted(started for _, _, started in opened) == [False, False, True]
    assert len({info.keeper_pid for _, info, _ in opened}) == 1
    for connection, _, _ in opened:
        connection.close()
        await connection.wait_closed()


async def test_finding_an_instance_works_with_and_without_a_loop(daemon: Instance) -> None:
    found = local.find_instance(daemon.home)
    aside = await anyio.to_thread.run_sync(local.find_instance, daemon.home)
    assert found is not None and aside is not None
    assert found.http_port == aside.http_port == daemon.info.http_port
    assert local.find_instance(daemon.home + "-elsewhere") is None


async def test_a_home_with_a_long_path_keeps_its_sockets_elsewhere(instances: Instances) -> None:
    options = instances.options()
    options = msgspec.structs.replace(options, home=f"{options.home}/{'x' * 120}")
    instances.watch_home(options.home)
    instance = await instances.start(options)
    assert instance.paths.run != instance.home
    await instance.deploy("served:who", folder=HERE)
    assert (await instance.http.get("/")).status_code == 200
    await instances.stop(instance)
    assert not os.path.exists(instance.paths.run)


async def test_a_home_that_is_open_to_others_is_refused(instances: Instances) -> None:
    options = instances.options()
    os.mkdir(options.home, 0o700)
    Path(options.home, "notes").touch()
    os.chmod(options.home, 0o755)
    with pytest.raises(InstanceError, match="open to other users"):
        local.start_instance(options)


async def test_a_state_file_that_cannot_be_read_is_told_to_who_connects(instances: Instances) -> None:
    options = instances.options()
    os.mkdir(options.home, 0o700)
    Path(options.home, "state.db").write_bytes(b"not a database" * 1000)
    info = local.start_instance(options)
    with pytest.raises(InstanceError, match="state file .* is damaged"):
        await local.connect_instance(options.home)
    await until(lambda: not is_running(info.keeper_pid), "the keeper gives up")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_keeper_lets_requests_finish(
    instances: Instances, tmp_path: Path, number: signal.Signals
) -> None:
    instance = await instances.start()
    await instance.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    async with anyio.create_task_group() as group:
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await instance.http.get("/")).status_code)

        group.start_soon(ask)
        await until(lambda: list(tmp_path.glob("entered-*")), "the request is inside user code")
        os.kill(instance.keeper_pid, number)
        (tmp_path / "gate").touch()
    await instance.gone()
    assert answers == [200]


async def test_sigint_stops_a_keeper_that_was_started_with_it_ignored(instances: Instances) -> None:
    options = instances.options()
    keeper = subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec {sys.executable} -m serve_lite.daemon.keeper"],
        env={**os.environ, ENVIRONMENT_NAME: msgspec.json.encode(options).decode()},
    )
    await until(lambda: Path(paths(options.home).control).exists(), "the control socket appears")
    instance = await instances.join(options)
    await instance.deploy("served:who", folder=HERE)
    keeper.send_signal(signal.SIGINT)
    await until(lambda: keeper.poll() is not None, "the keeper ends")


async def test_a_second_signal_stops_at_once(instances: Instances, tmp_path: Path) -> None:
    instance = await instances.start()
    await instance.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(httpx.TransportError):
                await instance.http.get("/")

        group.start_soon(ask)
        await until(lambda: list(tmp_path.glob("entered-*")), "the request is inside user code")
        os.kill(instance.keeper_pid, signal.SIGTERM)
        await until(lambda: "gracefully" in instance.log("keeper.log"), "the keeper has taken the first one")
        os.kill(instance.keeper_pid, signal.SIGTERM)
        await instance.gone()


async def test_an_embedded_instance_ends_with_its_owner(instances: Instances) -> None:
    owner = subprocess.Popen(["sleep", "1000"])
    instance = await instances.start(owner_pid=owner.pid)
    await instance.deploy("served:who", folder=HERE)
    owner.kill()
    owner.wait()
    await instance.gone()
    again = await instances.start(instance.options)
    assert (await again.status()).applications == {}  # its applications were its owner's


async def test_a_stopped_instance_brings_its_applications_back(instances: Instances) -> None:
    instance = await instances.start()
    await instance.deploy("served:who", folder=HERE)
    os.kill(instance.keeper_pid, signal.SIGTERM)
    await instance.gone()
    again = await instances.start(instance.options)
    assert (await again.http.get("/")).status_code == 200


async def test_a_shut_down_instance_has_forgotten_its_applications(instances: Instances) -> None:
    instance = await instances.start()
    await instance.deploy("served:who", folder=HERE)
    await instances.stop(instance)
    again = await instances.start(instance.options)
    assert (await again.status()).applications == {}


async def test_a_deleted_application_leaves_no_descriptor_in_the_daemon(daemon: Instance) -> None:
    process = psutil.Process(await daemon.daemon_pid())

    async def once() -> None:
        await daemon.deploy("served:copies", folder=HERE, args={"n": "3"})
        await daemon.delete("default")

    await once()
    before = process.num_fds()
    for _ in range(3):
        await once()
    await until(lambda: process.num_fds() <= before, "as few descriptors are open as before")


async def test_replicas_find_what_the_application_module_put_on_the_path(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "parts.py").write_text(
        "import serve_lite as serve\n@serve.deployment\ndef hello():\n    return 'from elsewhere'\n"
    )
    (tmp_path / "main_app.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path / 'elsewhere')!r})\nimport parts\napp = parts.hello.bind()\n"
    )
    status = await daemon.deploy("main_app:app", folder=tmp_path)
    assert status.applications["default"].status == "RUNNING"
    assert (await daemon.http.get("/")).text == "from elsewhere"


async def test_neither_daemon_nor_keeper_nor_template_imports_user_code(
    daemon: Instance, tmp_path: Path
) -> None:
    note = tmp_path / "imported"
    (tmp_path / "tells.py").write_text(
        "import os\nimport serve_lite as serve\n"
        f"with open({str(note)!r}, 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n"
        "@serve.deployment\ndef hello():\n    return 'hello'\napp = hello.bind()\n"
    )
    await daemon.deploy("tells:app", folder=tmp_path)
    assert (await daemon.http.get("/")).text == "hello"
    importers = {int(line) for line in note.read_text().split()}
    ours = {daemon.keeper_pid, await daemon.daemon_pid()} | daemon.pids("template")
    assert len(ours) == 3
    assert not importers & ours
    assert daemon.pids("replica") < importers  # the other one was the importer
