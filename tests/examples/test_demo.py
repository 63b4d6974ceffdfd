"""`make demo` shows an answer and leaves nothing running; the configs/ are what their comments say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.wire.messages import WaitRequest
from tests.instances import DEADLINE_S, Instance, Instances

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


def test_the_demo_shows_an_answer_and_ends_when_told_to_do_it_once(instances: Instances) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        env={**os.environ, "DEMO_ONCE": "1", "PORT": str(free_port())},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"label": "makefile"' in done.stdout
    assert "curl -F files=@Makefile" in done.stdout


def test_the_demo_serves_until_it_is_interrupted(instances: Instances) -> None:
    command = [sys.executable, "-u", "-m", "examples.demo"]
    environment = {**os.environ, "PORT": str(free_port())}
    environment.pop("DEMO_ONCE", None)
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:  # ends with the demo, whatever happens to it
            lines.append(line)
            if line.startswith("Serving until Ctrl-C"):
                demo.send_signal(signal.SIGINT)
    assert any(line.startswith("Serving until Ctrl-C") for line in lines), "".join(lines)
    assert demo.returncode == 0


def test_the_demo_says_how_to_go_on_when_its_port_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "examples.demo"],
            env={**os.environ, "PORT": str(port)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    assert done.returncode == 1
    assert done.stdout.startswith(f"Port {port} is in use")


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_sample_config_is_deployed_as_it_is(daemon: Instance, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_lite_cli.main", "deploy", f"configs/{name}"],
        env={**os.environ, "SERVE_LITE_HOME": daemon.home},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = list((await daemon.status()).applications)
    status = await daemon.ask("wait_apps", WaitRequest(names=names), ServeStatus)
    for application in status.applications.values():
        assert application.status == ApplicationStatus.RUNNING, application.message


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
