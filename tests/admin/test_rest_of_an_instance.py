"""The REST API of a real instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.instances import Instance

V1, V2 = "/api/serve/deployments/", "/api/serve/applications/"

CODE = """
import serve_lite as serve

@serve.deployment
class Hello:
    def __init__(self, who="world"):
        self.who = who
    def reconfigure(self, config):
        self.who = config["who"]
    async def __call__(self, request):
        return f"hello {self.who}"

app = Hello.bind()
"""


@pytest.fixture
def app(tmp_path: Path) -> dict[str, Any]:
    """The part of a document that describes one application."""
    (tmp_path / "shop.py").write_text(CODE)
    return {"import_path": "shop:app", "runtime_env": {"working_dir": str(tmp_path)}}


async def settled(daemon: Instance, name: str) -> dict[str, Any]:
    """Return an application's details once it is not being deployed any more."""
    while True:
        details: dict[str, Any] = (await daemon.admin.get(V2)).json()["applications"][name]
        if details["status"] != "DEPLOYING":
            return details


async def test_an_application_is_put_seen_changed_and_deleted(daemon: Instance, app: dict[str, Any]) -> None:
    document = {"applications": [{"name": "shop", "route_prefix": "/shop", **app}]}
    assert (await daemon.admin.put(V2, json=document)).status_code == 200
    shop = await settled(daemon, "shop")
    assert (await daemon.http.get("/shop")).text == "hello world"

    assert (shop["status"], shop["source"], shop["route_prefix"]) == ("RUNNING", "declarative", "/shop")
    assert shop["deployed_app_config"] == document["applications"][0]
    hello = shop["deployments"]["Hello"]
    (replica,) = hello["replicas"]
    assert replica["state"] == "RUNNING"
    assert replica["pid"] in daemon.pids("replica")

    document["applications"][0]["deployments"] = [{"name": "Hello", "user_config": {"who": "you"}}]
    assert (await daemon.admin.put(V2, json=document)).status_code == 200
    await until_said(daemon, "/shop", "hello you")
    (same,) = (await settled(daemon, "shop"))["deployments"]["Hello"]["replicas"]
    assert same["pid"] == replica["pid"], "a changed user_config needs no new process"

    assert (await daemon.admin.delete(V2)).status_code == 200
    assert (await daemon.admin.get(V2)).json()["applications"] == {}
    assert (await daemon.http.get("/shop")).status_code == 404
    assert daemon.pids("replica") == set()
    assert (await daemon.admin.put(V2, json=document)).status_code == 200, "the door stays open"


async def until_said(daemon: Instance, path: str, text: str) -> None:
    while (await daemon.http.get(path)).text != text:
        await anyio.sleep(0.01)


async def test_the_answer_has_the_parts_that_are_documented(daemon: Instance, app: dict[str, Any]) -> None:
    await daemon.admin.put(V2, json={"applications": [app]})
    await settled(daemon, "default")
    details = (await daemon.admin.get(V2)).json()

    assert {"controller_info", "proxy_location", "http_options", "grpc_options", "proxies"} <= set(details)
    assert {"deploy_mode", "applications", "target_capacity"} <= set(details)
    assert details["http_options"]["port"] == daemon.info.http_port
    for node, proxy in details["proxies"].items():
        assert proxy["node_id"] == node
        assert proxy["status"] == "HEALTHY"
    one = details["applications"]["default"]
    assert {"name", "route_prefix", "docs_path", "status", "message", "last_deployed_time_s"} <= set(one)
    assert {"deployed_app_config", "deployments"} <= set(one)
    deployment = one["deployments"]["Hello"]
    assert {"name", "status", "message", "deployment_config", "replicas"} <= set(deployment)
    config = deployment["deployment_config"]
    assert {"num_replicas", "max_concurrent_queries", "max_ongoing_requests", "user_config"} <= set(config)
    assert {"graceful_shutdown_wait_loop_s", "graceful_shutdown_timeout_s"} <= set(config)
    assert {"health_check_period_s", "health_check_timeout_s", "ray_actor_options"} <= set(config)
    (replica,) = deployment["replicas"]
    assert {"node_id", "node_ip", "actor_id", "actor_name", "worker_id", "log_file_path"} <= set(replica)
    assert {"replica_id", "state", "pid", "start_time_s"} <= set(replica)


async def test_a_refused_document_leaves_what_runs_as_it_is(daemon: Instance, app: dict[str, Any]) -> None:
    await daemon.admin.put(V2, json={"applications": [app]})
    before = await settled(daemon, "default")

    for wrong in (
        {"applications": [{**app, "route_prefix": "x"}]},
        {"applications": [app, app]},
        {"applications": [{**app, "num_replicas": 2}]},
        {"applications": [{**app, "runtime_env": {"working_dir": "/nowhere"}}]},
    ):
        answer = await daemon.admin.put(V2, json=wrong)
        assert answer.status_code == 400
        assert answer.json()["path"].startswith("applications[")

    assert await settled(daemon, "default") == before
    assert (await daemon.http.get("/")).text == "hello world"


async def test_code_that_cannot_be_imported_is_accepted_and_told_in_the_status(
    daemon: Instance, app: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text("raise LookupError('no weights')")
    assert (await daemon.admin.put(V2, json={"applications": [app]})).status_code == 200
    default = await settled(daemon, "default")
    assert default["status"] == "DEPLOY_FAILED"
    assert "LookupError: no weights" in default["message"]
    assert "shop.py:1" in default["message"]


async def test_the_older_endpoints_serve_one_application(daemon: Instance, app: dict[str, Any]) -> None:
    assert (await daemon.admin.put(V1, json=app)).status_code == 200
    await settled(daemon, "default")

    assert (await daemon.admin.get(V1)).json() == app
    status = (await daemon.admin.get(f"{V1}status")).json()
    assert status["app_status"]["status"] == "RUNNING"
    assert status["deployment_statuses"] == [{"name": "Hello", "status": "HEALTHY", "message": ""}]

    changed = {**app, "host": "0.0.0.0"}
    assert (await daemon.admin.put(V1, json=changed)).status_code == 400
    assert (await daemon.admin.delete(V1)).status_code == 200
    assert (await daemon.admin.get(f"{V1}status")).json()["app_status"]["status"] == "NOT_STARTED"


async def test_the_two_kinds_of_documents_are_not_mixed(daemon: Instance, app: dict[str, Any]) -> None:
    await daemon.admin.put(V2, json={"applications": [{"name": "other", **app}]})
    answer = await daemon.admin.put(V1, json=app)
    assert answer.status_code == 400
    assert "multi-application" in answer.json()["error"]
    assert list((await daemon.admin.get(V2)).json()["applications"]) == ["other"]

    await daemon.admin.delete(V2)
    assert (await daemon.admin.put(V1, json=app)).status_code == 200


async def test_applications_of_scripts_are_kept_by_documents(daemon: Instance, app: dict[str, Any]) -> None:
    folder = app["runtime_env"]["working_dir"]
    await daemon.deploy("shop:app", name="script", route_prefix="/script", folder=folder)
    await daemon.admin.put(V2, json={"applications": [{"name": "file", **app}]})
    await daemon.admin.put(V2, json={"applications": []})

    async def names() -> list[str]:
        return list((await daemon.admin.get(V2)).json()["applications"])

    while "file" in await names():
        await anyio.sleep(0.01)
    assert await names() == ["script"]
    imperative = (await daemon.admin.get(V2, params={"api_type": "imperative"})).json()["applications"]
    assert list(imperative) == ["script"]


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}],
)
async def test_pages_of_other_sites_reach_nothing(daemon: Instance, headers: dict[str, str]) -> None:
    for method, path in (("GET", V2), ("PUT", V2), ("DELETE", V2), ("OPTIONS", V2), ("GET", "/nowhere")):
        answer = await daemon.admin.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_a_websocket_of_another_site_is_refused_too(daemon: Instance) -> None:
    upgrade = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "host": "evil.example",
    }
    answer = await daemon.admin.get(V2, headers=upgrade)
    assert answer.status_code == 403


async def test_requests_that_are_no_http_do_no_harm(daemon: Instance) -> None:
    for sent in (
        b"\x00" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
        b"PUT /api/serve/applications/ HTTP/1.1\r\nhost: localhost",
    ):
        stream = await anyio.connect_tcp(daemon.info.admin_host, daemon.info.admin_port)
        async with stream:
            await stream.send(sent)
    assert (await daemon.admin.get("/-/healthz")).text == "success"


async def test_two_clients_at_once_both_get_their_answer(daemon: Instance, app: dict[str, Any]) -> None:
    answers: list[httpx.Response] = []

    async def put(name: str) -> None:
        document = {"applications": [{"name": name, "route_prefix": f"/{name}", **app}]}
        answers.append(await daemon.admin.put(V2, json=document))

    async with anyio.create_task_group() as group:
        for name in "abcd":
            group.start_soon(put, name)
    assert [answer.status_code for answer in answers] == [200] * 4


# --- ours: tags, and documents that hold a part --------------------------------------------------


async def test_a_document_made_from_an_older_state_is_refused(daemon: Instance, app: dict[str, Any]) -> None:
    one = {"applications": [{"name": "one", "route_prefix": "/one", **app}]}
    seen = (await daemon.admin.get(V2)).headers["etag"]

    first = await daemon.admin.put(V2, json=one, headers={"if-match": seen})
    assert first.status_code == 200
    stale = await daemon.admin.put(V2, json={"applications": []}, headers={"if-match": seen})
    assert stale.status_code == 412
    assert set(stale.json()) == {"error", "path"}
    assert (await settled(daemon, "one"))["status"] == "RUNNING"

    now = (await daemon.admin.get(V2)).headers["etag"]
    assert now != seen
    now = first.headers["etag"]  # names the same revision
    for condition in ("{}", '"other", {}', "*"):
        answer = await daemon.admin.put(V2, json=one, headers={"if-match": condition.format(now)})
        assert answer.status_code == 200
        now = answer.headers["etag"]


@pytest.mark.parametrize("tag", ['"other-0"', '"nonsense"', 'W/"x-1"', ""])
async def test_a_tag_of_another_instance_matches_nothing(daemon: Instance, tag: str) -> None:
    answer = await daemon.admin.put(V2, json={"applications": []}, headers={"if-match": tag})
    assert answer.status_code == 412


async def test_of_many_who_change_the_same_state_one_succeeds(daemon: Instance) -> None:
    headers = {"if-match": (await daemon.admin.get(V2)).headers["etag"]}
    codes: list[int] = []

    async def put() -> None:
        answer = await daemon.admin.put(V2, json={"applications": []}, headers=headers)
        codes.append(answer.status_code)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(put)
    assert sorted(codes) == [200, *[412] * 7]


@pytest.mark.parametrize(("method", "query"), [("PATCH", ""), ("PUT", "?merge=true")])
async def test_a_part_is_put_beside_what_is_there(
    daemon: Instance, app: dict[str, Any], method: str, query: str
) -> None:
    both = [{"name": name, "route_prefix": f"/{name}", **app} for name in ("one", "two")]
    assert (await daemon.admin.put(V2, json={"applications": both})).status_code == 200
    (kept,) = (await settled(daemon, "one"))["deployments"]["Hello"]["replicas"]

    changed = {**both[1], "deployments": [{"name": "Hello", "user_config": {"who": "you"}}]}
    answer = await daemon.admin.request(method, f"{V2}{query}", json={"applications": [changed]})
    assert answer.status_code == 200
    await settled(daemon, "two")
    assert (await daemon.http.get("/two")).text == "hello you"
    assert (await settled(daemon, "one"))["deployments"]["Hello"]["replicas"] == [kept]

    # A whole document afterwards still removes both.
    assert (await daemon.admin.put(V2, json={"applications": []})).status_code == 200
    with anyio.fail_after(30):
        while (await daemon.admin.get(V2)).json()["applications"]:
            pass


async def test_a_part_that_does_not_fit_is_refused_with_its_place(
    daemon: Instance, app: dict[str, Any]
) -> None:
    one = {"applications": [{"name": "one", **app}]}
    assert (await daemon.admin.put(V2, json=one)).status_code == 200
    answer = await daemon.admin.patch(V2, json={"applications": [{"name": "two", **app}]})
    assert (answer.status_code, answer.json()["path"]) == (400, "applications[0].route_prefix")
    answer = await daemon.admin.put(f"{V2}?merge=perhaps", json=one)
    assert (answer.status_code, answer.json()["path"]) == (400, "merge")
