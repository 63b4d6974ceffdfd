"""The access log that replicas write among their own lines, and the files that stay small."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_lite.config import LoggingConfig
from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest, WaitRequest
from serve_lite_cli.follow import LogFollower
from tests.instances import Instance, until

TEXT = re.compile(
    r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<deployment>\S+) (?P<replica>\S+) (?P<id>\S+) ray\.serve -- "
    r"(?P<said>.*) \d+\.\dms"
)

CODE = """
import serve_lite as serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse


@serve.deployment
class Inner:
    def double(self, value: int) -> int:
        if value < 0:
            raise ValueError(value)
        return 2 * value


@serve.deployment
class Door:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, request: Request):
        match request.url.path.rpartition("/")[2]:
            case "fail":
                raise LookupError("no such thing")
            case "teapot":
                return PlainTextResponse("short and stout", 418)
            case "stream":
                return StreamingResponse(iter(["a", "b"]), 202)
            case number:
                return await self.inner.double.remote(int(number))


app = Door.bind(Inner.bind())
"""


async def deploy(daemon: Instance, folder: Path, logging: dict[str, Any]) -> None:
    """Deploy `CODE` at /shop; with another `logging_config` it is no new version."""
    (folder / "doors.py").write_text(CODE)
    app = AppSubmission(
        name="shop",
        source="declarative",
        route_prefix="/shop",
        environment=CodeEnvironment(cwd=str(folder), sys_path=(str(folder),)),
        build=BuildRequest(app_name="shop", import_path="doors:app"),
        logging_config=LoggingConfig(**logging).to_dict(),
        code_version="the same",
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    status = await daemon.ask("wait_apps", WaitRequest(names=["shop"]), ServeStatus)
    assert status.applications["shop"].status is ApplicationStatus.RUNNING, status


def written(daemon: Instance, deployment: str) -> str:
    return "".join(
        path.read_text() for path in Path(daemon.paths.logs).glob(f"replica_shop_{deployment}_*.log")
    )


def told(daemon: Instance, deployment: str) -> list[tuple[str, str]]:
    """Return request id and what was said of each request."""
    found = []
    for line in written(daemon, deployment).splitlines():
        if match := TEXT.fullmatch(line):
            assert match["deployment"] == deployment
            found.append((match["id"], match["said"]))
    return found


async def ask(daemon: Instance, path: str, request_id: str) -> int:
    return (await daemon.http.get(path, headers={"x-request-id": request_id})).status_code


async def test_each_request_gets_a_line_with_its_outcome(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, {})
    asked = {
        "a": "/shop/4?token=secret",
        "b": "/shop/fail",
        "c": "/shop/teapot",
        "d": "/shop/stream",
        "e": "/shop/-1",
    }
    assert [await ask(daemon, path, id) for id, path in asked.items()] == [200, 500, 418, 202, 500]
    await until(lambda: len(told(daemon, "Door")) == 5 and len(told(daemon, "Inner")) == 2)
    said = {"a": 200, "b": 500, "c": 418, "d": 202, "e": 500}
    assert told(daemon, "Door") == [(id, f"GET /shop {status}") for id, status in said.items()]
    assert told(daemon, "Inner") == [("a", "CALL double OK"), ("e", "CALL double ERROR")]
    assert "secret" not in written(daemon, "Door")


async def test_json_lines_carry_the_mark_that_ray_s_have(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, {"encoding": "JSON"})
    await ask(daemon, "/shop/1", "a")
    await until(lambda: "serve_access_log" in written(daemon, "Door"))
    (line,) = [
        line for line in map(json.loads, written(daemon, "Door").splitlines()) if "serve_access_log" in line
    ]
    assert re.fullmatch(r"GET /shop 200 \d+\.\dms", line.pop("message"))
    assert line.pop("asctime") and line.pop("replica")
    assert line == {
        "levelname": "INFO", "logger": "ray.serve", "request_id": "a", "route": "/shop", "application": "shop",
        "deployment": "Door", "serve_access_log": True,
    }  # fmt: skip


async def test_it_is_switched_off_and_on_while_replicas_run(daemon: Instance, tmp_path: Path) -> None:
    ids = ["on", "off", "quiet", "again"]
    pids = set()
    for id, config in zip(ids, ({}, {"enable_access_log": False}, {"log_level": "WARNING"}, {}), strict=True):
        await deploy(daemon, tmp_path, config)
        await ask(daemon, "/shop/1", id)
        pids |= daemon.pids("replica shop/Door")
    await until(lambda: told(daemon, "Door")[-1:] == [("again", "GET /shop 200")])
    assert [id for id, _ in told(daemon, "Door")] == ["on", "again"]
    assert len(pids) == 1, "no replica was replaced for it"


async def test_the_last_lines_are_written_when_a_replica_stops(daemon: Instance, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    await deploy(daemon, tmp_path, {"logs_dir": str(logs)})
    for number in range(20):
        await ask(daemon, "/shop/1", f"r{number}")
    await daemon.delete("shop")
    assert [id for id, _ in told(daemon, "Door")] == [f"r{number}" for number in range(20)]
    (file,) = logs.glob("replica_shop_Door_*.log")
    assert [m["id"] for line in file.read_text().splitlines() if (m := TEXT.fullmatch(line))] == [
        f"r{number}" for number in range(20)
    ], "and where `logs_dir` says"


# --- files ----------------------------------------------------------------------------------------

_WRITES = """
import os, sys
from serve_lite.rotation import bound_own
path = sys.argv[1]
log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
for number in range(12):
    os.write(2, b"line %04d\\n" % number)
    bound_own("replica_", 20)
"""


def run(path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", _WRITES, str(path)],
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )


def test_a_full_log_of_a_replica_gets_a_number(tmp_path: Path) -> None:
    run(tmp_path / "replica_a_b_c.log")
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {
        "replica_a_b_c.log": "",
        "replica_a_b_c.log.1": "line 0010\nline 0011\n",
        "replica_a_b_c.log.2": "line 0008\nline 0009\n",
        "replica_a_b_c.log.3": "line 0006\nline 0007\n",
    }


@pytest.mark.parametrize("name", ["output.txt", "other.log"])
def test_output_that_is_no_log_of_a_replica_is_left_alone(tmp_path: Path, name: str) -> None:
    run(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text().count("\n") == 12


def test_whoever_follows_a_log_sees_each_line_once_when_it_gets_a_number(tmp_path: Path) -> None:
    shown: list[str] = []
    log = tmp_path / "replica_app_D_x.log"
    log.write_text("one\n")
    follower = LogFollower(str(tmp_path), ["app"], lambda _, line: shown.append(line))
    with log.open("a") as file:
        file.write("two\nthree\n")
    follower.read_new()
    log.rename(tmp_path / "replica_app_D_x.log.1")
    log.write_text("four\n")
    follower.read_new()
    follower.close()
    assert shown == ["two", "three", "four"]
