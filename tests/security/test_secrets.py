"""Values of `env_vars` and passwords in URLs stay where they are needed; answers to strangers tell no insides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.instances import DEADLINE_S, Instance, until

V2 = "/api/serve/applications/"
SECRETS = (
    "s3cret-of-the-app",
    "s3cret-of-a-deployment",
    "s3cret-in-a-url",
    "s3cret-of-a-mistake",
    "s3cret-of-an-index",
)

CODE = """
from serve_lite import deployment

@deployment
class Well:
    def __call__(self):
        raise RuntimeError("this is the user's own business")

@deployment
class Ill:
    def __init__(self):
        raise RuntimeError("no such luck")

well, ill = Well.bind(), Ill.bind()
"""

#: Nobody listens there.
NOWHERE = "https://user:s3cret-in-a-url@127.0.0.1:9/app.zip"


def document(folder: str) -> dict[str, Any]:
    env = {"working_dir": folder, "env_vars": {"PASSWORD": SECRETS[0]}}
    own = {"ray_actor_options": {"runtime_env": {"env_vars": {"TOKEN": SECRETS[1]}}}}
    return {
        "applications": [
            {
                "name": "well",
                "route_prefix": "/well",
                "import_path": "kept:well",
                "runtime_env": env,
                "deployments": [{"name": "Well", **own}],
            },
            {"name": "ill", "route_prefix": "/ill", "import_path": "kept:ill", "runtime_env": env},
            {
                "name": "far",
                "route_prefix": "/far",
                "import_path": "kept:far",
                "runtime_env": {"working_dir": NOWHERE},
            },
            {
                "name": "packed",
                "route_prefix": "/packed",
                "import_path": "kept:well",
                "runtime_env": {
                    **env,
                    "pip": [f"--index-url https://me:{SECRETS[4]}@127.0.0.1:9/simple", "nothing-there"],
                },
            },
        ]
    }


def mistakes(folder: str) -> list[dict[str, Any]]:
    """Documents that are refused, each with a secret close to what is wrong."""
    wrong: list[Any] = [
        {"env_vars": {"A": SECRETS[3], "B": 3}},
        {"env_vars": SECRETS[3]},
        {"env_vars": [SECRETS[3]]},
        {"env_vars": {"A": [SECRETS[3]]}},
        {"env_vars": {"A": {"b": SECRETS[3]}}},
        {"working_dir": f"https://me:{SECRETS[3]}@host/app.tar"},
        {"working_dir": f"ftp://me:{SECRETS[3]}@host/app.zip"},
    ]
    app = {"name": "x", "import_path": "kept:well"}
    return [{"applications": [{**app, "runtime_env": env}]} for env in wrong]


async def settled(daemon: Instance) -> dict[str, str]:
    """Return the status of each application, once the first is up and those that cannot be fetched are given up."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            apps = (await daemon.admin.get(V2)).json()["applications"]
            statuses = {name: app["status"] for name, app in apps.items()}
            if "DEPLOYING" not in [status for name, status in statuses.items() if name != "ill"]:
                return statuses
            await anyio.sleep(0.1)


async def test_no_answer_and_no_log_shows_a_secret(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text(CODE)
    put = await daemon.admin.put(V2, json=document(str(tmp_path)))
    assert put.status_code == 200, put.text

    said: dict[str, str] = {}
    statuses = await settled(daemon)
    assert {statuses["well"], statuses["far"], statuses["packed"]} == {"RUNNING", "DEPLOY_FAILED"}

    for path in (V2, "/api/serve/deployments/", "/api/serve/events", "/api/serve/instance", "/metrics"):
        said[path] = (await daemon.admin.get(path)).text
    for name in ("well", "ill", "far", "packed"):
        said[f"history of {name}"] = (await daemon.admin.get(f"{V2}{name}/history")).text
    changed = document(str(tmp_path))
    changed["applications"][0]["runtime_env"]["env_vars"]["PASSWORD"] = SECRETS[3]
    said["diff"] = (await daemon.admin.post(f"{V2}diff", json=changed)).text
    for i, wrong in enumerate(mistakes(str(tmp_path))):
        answer = await daemon.admin.put(V2, json=wrong)
        assert 400 <= answer.status_code < 500, wrong
        said[f"mistake {i}"] = answer.text
    assert "<redacted>" in said[V2]
    for file in Path(daemon.paths.logs).iterdir():
        said[file.name] = file.read_text(errors="replace")
    shown = [(place, secret) for place, text in said.items() for secret in SECRETS if secret in text]
    assert shown == []


async def test_an_error_of_an_application_is_answered_without_its_insides(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "kept.py").write_text(CODE)
    await daemon.deploy("kept:well", folder=tmp_path)
    answer = await daemon.http.get("/anything", headers={"x-request-id": "the-one"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "the-one"
    assert "server" not in answer.headers
    (replica,) = daemon.pids("replica")
    for inside in ("Traceback", 'File "', str(tmp_path), daemon.home, str(replica), "user's own business"):
        assert inside not in answer.text
    await until(lambda: "user's own business" in daemon.log("daemon.log") + logs_of(daemon), "the log has it")


def logs_of(daemon: Instance) -> str:
    return "".join(file.read_text(errors="replace") for file in Path(daemon.paths.logs).iterdir())


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/serve/applications/nobody/history", "/api/serve/%2e%2e/token"]
)
async def test_a_refusal_of_the_control_plane_tells_no_insides(daemon: Instance, path: str) -> None:
    answer = await daemon.admin.get(path)
    assert 400 <= answer.status_code < 500
    assert "server" not in answer.headers
    assert set(json.loads(answer.text)) == {"error", "path"}
    for inside in ("Traceback", daemon.home, str(await daemon.daemon_pid())):
        assert inside not in answer.text
