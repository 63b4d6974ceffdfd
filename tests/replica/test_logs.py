"""What replicas write, and how: levels, encodings, context, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import serve_lite as serve
from serve_lite.config import LoggingConfig
from tests.instances import DEADLINE_S, Instance
from tests.replica.talk import Talker


def lines(folder: Path, tag: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"replica_default_Talker_{tag}.log")
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_json_lines_carry_their_context(daemon: Instance, tmp_path: Path) -> None:
    config = LoggingConfig(
        encoding="JSON",
        log_level="DEBUG",
        logs_dir=str(tmp_path / "logs"),
        additional_log_standard_attrs=["funcName"],
    )
    handle = await daemon.run(Talker.options(logging_config=config).bind(), route_prefix=None)
    response = handle.remote("hello")
    tag = await response
    said = {line["message"]: line for line in lines(tmp_path / "logs", tag)}
    hello = said["said hello"]
    assert (hello["levelname"], hello["logger"], hello["funcName"]) == ("INFO", "ray.serve", "__call__")
    assert (hello["application"], hello["deployment"], hello["replica"]) == ("default", "Talker", tag)
    assert hello["request_id"] == response.request_id
    assert said["debug hello"]["levelname"] == "DEBUG"
    assert said["own hello"]["logger"] == "shop.prices"
    with pytest.raises(KeyError):
        await handle.fail.remote()
    failed = [line for line in lines(tmp_path / "logs", tag) if line["levelname"] == "ERROR"]
    assert len(failed) == 1 and "KeyError: 'price'" in failed[0]["message"]


async def test_text_is_the_default_and_goes_to_the_instances_own_log(daemon: Instance) -> None:
    handle = await daemon.run(Talker.bind(), route_prefix=None)
    response = handle.remote("hello")
    tag = await response
    text = daemon.log(f"replica_default_Talker_{tag}.log")
    (line,) = [line for line in text.splitlines() if "said" in line]
    assert line.startswith("INFO ") and line.endswith(
        f"Talker {tag} {response.request_id} ray.serve -- said hello"
    )
    assert "debug hello" not in text


async def test_an_application_s_config_holds_where_a_deployment_has_none(
    daemon: Instance, tmp_path: Path
) -> None:
    document: dict[str, Any] = {
        "logging_config": {"log_level": "ERROR"},
        "applications": [
            {
                "name": "default",
                "route_prefix": None,
                "import_path": "talk:app",
                "runtime_env": {"working_dir": str(Path(__file__).parent)},
                "logging_config": {"encoding": "JSON", "logs_dir": str(tmp_path)},
            }
        ],
    }
    answer = await daemon.admin.put("/api/serve/applications/", json=document)
    assert answer.status_code == 200, answer.text
    await until_running(daemon)
    handle = await anyio.to_thread.run_sync(serve.get_app_handle, "default")
    tag = await handle.remote("hello")
    assert {line["message"] for line in lines(tmp_path, tag)} >= {"said hello", "own hello"}

    document["applications"][0]["deployments"] = [
        {"name": "Talker", "logging_config": {"log_level": "ERROR"}}
    ]
    pids = daemon.pids("replica default/Talker")
    answer = await daemon.admin.put("/api/serve/applications/", json=document)
    assert answer.status_code == 200, answer.text
    await until_running(daemon)
    await handle.remote("again")
    assert daemon.pids("replica default/Talker") == pids  # in place
    assert "said again" not in {line["message"] for line in lines(tmp_path, tag)}


async def until_running(daemon: Instance) -> None:
    with anyio.fail_after(DEADLINE_S):
        while True:
            app = (await daemon.status()).applications.get("default")
            if app is not None and app.status == "RUNNING":
                return
            assert app is None or app.status != "DEPLOY_FAILED", app.message
            await anyio.sleep(0.01)
