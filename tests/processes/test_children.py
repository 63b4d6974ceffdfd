"""How children are started and what user code finds: environment, output, and the two ways to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_lite.controller.spawner import needs_exec
from serve_lite.schema import ApplicationStatus
from serve_lite.state.goal import CodeEnvironment
from tests.instances import Instance, until

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("env_vars", "expected"),
    [
        ({}, False),
        ({"COLOUR": "red"}, False),
        ({"MODEL_LD_PATH": "x"}, False),
        ({"LD_LIBRARY_PATH": "/opt/lib"}, True),
        ({"PYTHONHASHSEED": "0"}, True),
        ({"OMP_NUM_THREADS": "4"}, True),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"LANG": "C"}, True),
        ({"LANGUAGE_MODEL": "x"}, False),
    ],
)
def test_variables_that_are_read_early_need_a_fresh_process(env_vars: dict[str, str], expected: bool) -> None:
    assert needs_exec(CodeEnvironment(env_vars=env_vars)) is expected


def test_our_own_interpreter_by_another_name_needs_no_fresh_process(tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(os.path.realpath(sys.executable))
    assert needs_exec(CodeEnvironment(python="/usr/bin/other"))
    assert not needs_exec(CodeEnvironment(python=sys.executable))


async def test_user_code_finds_its_folder_path_and_variables(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE, env_vars={"COLOUR": "red"})
    answer = (await daemon.http.get("/")).json()
    assert answer["cwd"] == answer["path"] == str(HERE)
    assert answer["colour"] == "red"
    (replica,) = daemon.processes("replica")
    assert replica.ppid() in daemon.pids("template")


async def test_a_variable_that_is_read_early_is_there_from_the_start(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE, env_vars={"COLOUR": "red", "LD_TEST": "yes"})
    answer = (await daemon.http.get("/")).json()
    assert (answer["cwd"], answer["path"]) == (str(HERE), str(HERE))
    assert (answer["colour"], answer["early"]) == ("red", "yes")
    (replica,) = daemon.processes("replica")
    assert replica.ppid() == await daemon.daemon_pid()


async def test_a_started_process_dies_and_is_replaced_like_a_forked_one(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE, env_vars={"LD_TEST": "yes"})
    (first,) = daemon.processes("replica")
    first.kill()
    assert (await daemon.http.get("/")).json()["pid"] != first.pid
    await until(lambda: len(daemon.processes("replica")) == 1)


async def test_two_applications_see_each_its_own_variables(daemon: Instance) -> None:
    for colour in ("red", "blue"):
        await daemon.deploy(
            "served:who", name=colour, route_prefix=f"/{colour}", folder=HERE, env_vars={"COLOUR": colour}
        )
    for colour in ("red", "blue"):
        assert (await daemon.http.get(f"/{colour}")).json()["colour"] == colour


async def test_what_user_code_prints_while_it_is_imported_harms_nothing(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(
        "import os\n"
        "print('hello from the import', flush=True)\n"
        "os.write(1, b'bytes to descriptor 1\\n')\n"
        "from served import who\n"
    )
    status = await daemon.deploy("loud:who", folder=tmp_path, also=[HERE])
    assert status.applications["default"].status is ApplicationStatus.RUNNING
    assert "hello from the import\nbytes to descriptor 1" in daemon.log("importer_default.log")


async def test_a_process_that_user_code_has_left_behind_ends_with_the_instance(
    daemon: Instance, tmp_path: Path
) -> None:
    """Also tests the fixture, which fails if it is still there."""
    (tmp_path / "leaver.py").write_text(
        "import subprocess\n"
        "subprocess.Popen(['sleep', '1234'], start_new_session=True)\n"
        "from served import who\n"
    )
    await daemon.deploy("leaver:who", folder=tmp_path, also=[HERE])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("", "absent:app", "There is no module 'absent'"),
        ("app = 1", "target:ap", "There is no 'ap' in module 'target'"),
        ("app = 1", "target:app", "'target:app' is an int, not an application"),
        ("raise RuntimeError('no model')", "target:app", "RuntimeError: no model"),
        ("import numpyy", "target:app", "No module named 'numpyy'"),
        ("app = = 1", "target:app", "SyntaxError"),
        ("import os; os._exit(3)", "target:app", "exited with status 3"),
    ],
)
async def test_a_target_that_cannot_be_built_is_a_clear_error_and_nothing_else(
    daemon: Instance, tmp_path: Path, source: str, target: str, message: str
) -> None:
    (tmp_path / "target.py").write_text(source + "\n")
    await daemon.deploy("served:who", name="other", folder=HERE)
    status = await daemon.deploy(target, route_prefix="/broken", folder=tmp_path)
    app = status.applications["default"]
    assert app.status is ApplicationStatus.DEPLOY_FAILED
    assert message in app.message
    assert "serve_lite" not in app.message  # frames of ours say nothing to the user
    assert (await daemon.http.get("/")).status_code == 200


async def test_a_constructor_that_raises_is_told_with_its_exception(daemon: Instance) -> None:
    status = await daemon.deploy("served:fails", folder=HERE)
    app = status.applications["default"]
    assert app.status is ApplicationStatus.DEPLOY_FAILED
    text = app.message + "".join(d.message for d in app.deployments.values())
    assert "no model here" in text


async def test_replacing_a_deploy_ends_the_importer_of_the_old_one(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text("import time; time.sleep(1000)\n")
    client = subprocess.Popen(
        [sys.executable, "-c", _DEPLOY, daemon.home, str(tmp_path)],
        cwd=HERE.parent.parent,
        stdout=subprocess.PIPE,
    )
    await until(lambda: daemon.pids("importer default"), "there is an importer")
    status = await daemon.deploy("served:who", folder=HERE)
    assert status.applications["default"].status is ApplicationStatus.RUNNING
    await until(lambda: not daemon.pids("importer default"), "the first importer is gone")
    client.communicate()


#: Deploys and goes away: a deploy is the instance's business once it is accepted.
_DEPLOY = """
import asyncio, sys
from serve_lite.engines.local import connect_instance
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest

async def main(home, folder):
    connection = await connect_instance(home)
    app = AppSubmission(
        environment=CodeEnvironment(cwd=folder, sys_path=(folder,)),
        build=BuildRequest(app_name="default", import_path="stuck:app"),
    )
    await connection.control("deploy", DeployRequest(apps=[app]), DeployReply, timeout_s=30)

asyncio.run(main(*sys.argv[1:]))
"""
