"""REST to the letter of Ray Serve's reference: each example request is sent, each example answer is compared."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from serve_lite.schema import parse_application_document, parse_deploy_document
from tests.admin.reference import APP1, GET_V1_STATUS, GET_V2, PUT_V1, PUT_V2, differences, with_folder
from tests.instances import DEADLINE_S, Instance

V1, V2 = "/api/serve/deployments/", "/api/serve/applications/"

CODE = """
import serve_lite as serve

@serve.deployment
class Translator:
    def reconfigure(self, config):
        self.language = config["language"]

    def translate(self, text):
        return f"{text} in {self.language}"

@serve.deployment
class Summarizer:
    def __init__(self, translator):
        self.translator = translator

    async def __call__(self, request):
        return await self.translator.translate.remote("a text")

app = Summarizer.bind(Translator.bind())
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with the code that the examples import."""
    (tmp_path / "src").mkdir()
    for name in ("text_ml.py", "src/text-test.py"):
        (tmp_path / name).write_text(CODE)
    return str(tmp_path)


async def get(daemon: Instance, path: str) -> Any:
    answer = await daemon.admin.get(path, headers={"accept": "application/json"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def settled(daemon: Instance, name: str) -> dict[str, Any]:
    """Return an application's details once it is not being deployed any more."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            details: dict[str, Any] = (await get(daemon, V2))["applications"][name]
            if details["status"] != "DEPLOYING":
                return details


def is_empty_200(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.content == b""


# --- the examples --------------------------------------------------------------------------------


def test_the_example_documents_are_right_as_they_are_printed() -> None:
    assert parse_application_document(PUT_V1).runtime_env == PUT_V1["runtime_env"]
    assert [app.name for app in parse_deploy_document(PUT_V2).applications] == ["text_app"]


async def test_the_examples_of_v1_in_their_order(daemon: Instance, folder: str) -> None:
    document = with_folder(PUT_V1, folder)

    assert is_empty_200(await daemon.admin.put(V1, json=document))
    assert await get(daemon, V1) == document
    assert (await settled(daemon, "default"))["status"] == "RUNNING"
    assert (await daemon.http.get("/")).text == "a text in french"
    told = await get(daemon, f"{V1}status")
    told["deployment_statuses"].sort(key=lambda one: one["name"], reverse=True)
    assert differences(GET_V1_STATUS, told) == []
    assert (await get(daemon, V2))["deploy_mode"] == "SINGLE_APP"
    assert is_empty_200(await daemon.admin.delete(V1))


async def test_the_example_put_of_v2_is_deployed(daemon: Instance, folder: str) -> None:
    document = with_folder(PUT_V2, folder)

    assert is_empty_200(await daemon.admin.put(V2, json=document))
    text_app = await settled(daemon, "text_app")
    assert text_app["status"] == "RUNNING"
    assert text_app["deployed_app_config"] == document["applications"][0]
    assert (await daemon.http.get("/")).text == "a text in french"


async def test_the_example_answer_of_v2_is_there_key_by_key(daemon: Instance, folder: str) -> None:
    env = {"runtime_env": {"working_dir": folder}}  # the example is abridged, and has none
    assert is_empty_200(await daemon.admin.put(V2, json={"applications": [{**APP1, **env}]}))
    await settled(daemon, "app1")

    told = await get(daemon, V2)
    assert differences(GET_V2, told) == []
    assert told["applications"]["app1"]["deployed_app_config"] == {**APP1, **env}
    (node,) = told["proxies"]
    assert {told["controller_info"]["node_id"], told["proxies"][node]["node_id"]} == {node}
    assert told["proxies"][node]["actor_name"] == f"SERVE_CONTROLLER_ACTOR:SERVE_PROXY_ACTOR-{node}"
    for name, deployment in told["applications"]["app1"]["deployments"].items():
        (replica,) = deployment["replicas"]
        assert replica["actor_name"] == f"SERVE_REPLICA::app1#{name}#{replica['replica_id']}"
        assert replica["pid"] in daemon.pids(f"replica app1/{name}")
        assert Path(replica["log_file_path"]).is_file()
        config = deployment["deployment_config"]
        assert config["max_ongoing_requests"] == config["max_concurrent_queries"]


def test_a_comparison_with_the_reference_can_fail() -> None:
    for change, told in (
        (lambda d: d.pop("deploy_mode"), ".deploy_mode is missing"),
        (lambda d: d["applications"]["app1"].update(status=1), "is not of the kind"),
        (lambda d: d["applications"]["app1"].update(status="DEPLOYING"), "instead of 'RUNNING'"),
        (lambda d: d["applications"]["app1"]["deployments"]["Translator"]["replicas"].clear(), "0 entries"),
    ):
        other = copy.deepcopy(GET_V2)
        change(other)
        (problem,) = differences(GET_V2, other)
        assert told in problem


# --- what 2.60 has beside it ---------------------------------------------------------------------


async def test_what_the_newer_generation_tells_is_there_too(daemon: Instance, folder: str) -> None:
    app = {**APP1, "runtime_env": {"working_dir": folder}}
    await daemon.admin.put(V2, json={"applications": [app], "target_capacity": 50})
    await settled(daemon, "app1")

    told = await get(daemon, V2)
    assert told["target_capacity"] == 50
    assert told["restores_unset_config_options"] is True
    (group,) = told["target_groups"]
    assert group["protocol"] == "HTTP"
    assert (group["app_name"], group["route_prefix"]) == ("app1", "/")
    assert group["ingress_deployment_name"] == "Summarizer"
    assert group["targets"][0]["port"] == daemon.info.http_port
    app1 = told["applications"]["app1"]
    assert (app1["source"], app1["external_scaler_enabled"]) == ("declarative", False)
    nodes = app1["deployment_topology"]["nodes"]
    assert nodes["Summarizer"]["outbound_deployments"] == [{"name": "Translator", "app_name": "app1"}]
    assert app1["deployment_topology"]["ingress_deployment"] == "Summarizer"
    for deployment in app1["deployments"].values():
        assert deployment["status_trigger"] == "CONFIG_UPDATE_COMPLETED"
        assert deployment["target_num_replicas"] == 1
        assert deployment["required_resources"]["CPU"] == 1
        assert deployment["recent_dead_replicas"] == []
        assert "autoscaling_detail" not in deployment


async def test_a_deployment_that_scales_by_itself_tells_its_decisions(daemon: Instance, folder: str) -> None:
    scaling = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 3}
    app = {
        **APP1,
        "runtime_env": {"working_dir": folder},
        "deployments": [
            {"name": "Summarizer", "autoscaling_config": scaling},
            {"name": "Translator", "user_config": {"language": "german"}},
        ],
    }
    assert (await daemon.admin.put(V2, json={"applications": [app]})).status_code == 200
    told = (await settled(daemon, "app1"))["deployments"]
    assert "autoscaling_detail" not in told["Translator"]
    assert told["Summarizer"]["replicas"] == []
    assert (await daemon.http.get("/")).text == "a text in german"

    told = (await settled(daemon, "app1"))["deployments"]
    assert told["Summarizer"]["target_num_replicas"] == 1
    detail = told["Summarizer"]["autoscaling_detail"]
    assert set(detail) == {"scaling_status", "decisions", "metrics", "metrics_health", "errors"}
    assert detail["scaling_status"] in {"UPSCALING", "STABLE"}
    assert detail["metrics_health"] in {"delayed", "healthy"}
    assert detail["metrics"]["target_ongoing_requests"] == 2
    assert detail["errors"] == []
    (decision,) = detail["decisions"]
    assert (decision["prev_num_replicas"], decision["curr_num_replicas"]) == (0, 1)
    assert decision["reason"] and decision["policy"] and decision["timestamp_s"] > 0


# --- nothing there, and nothing any more ---------------------------------------------------------


async def test_before_anything_is_deployed_the_shapes_are_empty(daemon: Instance) -> None:
    assert await get(daemon, V1) == {"import_path": "", "runtime_env": {}, "deployments": []}
    assert await get(daemon, f"{V1}status") == {
        "app_status": {"status": "NOT_STARTED", "message": "", "deployment_timestamp": 0},
        "deployment_statuses": [],
    }
    told = await get(daemon, V2)
    assert (told["deploy_mode"], told["applications"], told["target_capacity"]) == ("UNSET", {}, None)


@pytest.mark.parametrize("path", [V1, V2])
async def test_delete_is_the_end_of_everything_that_was_deployed(
    daemon: Instance, folder: str, path: str
) -> None:
    document = with_folder(PUT_V2, folder)
    await daemon.admin.put(V2, json={**document, "target_capacity": 100})
    await daemon.deploy("text_ml:app", name="script", route_prefix=None, folder=folder)
    await settled(daemon, "text_app")

    assert is_empty_200(await daemon.admin.delete(path))
    assert daemon.pids("replica") == set()
    told = await get(daemon, V2)
    assert (told["deploy_mode"], told["applications"], told["target_capacity"]) == ("UNSET", {}, None)
    assert told["target_groups"] == []
    assert (await get(daemon, V1))["import_path"] == ""
    assert is_empty_200(await daemon.admin.delete(path)), "a second one does no harm"
    assert is_empty_200(await daemon.admin.put(V1, json=with_folder(PUT_V1, folder))), "the door stays open"


# --- the two kinds of documents ------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(V1, V2), (V2, V1)])
async def test_documents_of_two_kinds_are_not_mixed(
    daemon: Instance, folder: str, first: str, second: str
) -> None:
    documents = {V1: with_folder(PUT_V1, folder), V2: with_folder(PUT_V2, folder)}
    assert is_empty_200(await daemon.admin.put(first, json=documents[first]))
    before = (await get(daemon, V2))["applications"].keys()

    refused = await daemon.admin.put(second, json=documents[second])
    assert refused.status_code == 400
    assert "single-application" in refused.json()["error"]
    assert "multi-application" in refused.json()["error"]
    assert (await get(daemon, V2))["applications"].keys() == before
    refused = await daemon.admin.post(f"{V2}diff", json=documents[second])
    assert refused.status_code == 400, "what would be refused has no plan"

    assert is_empty_200(await daemon.admin.delete(second))
    assert is_empty_200(await daemon.admin.put(second, json=documents[second]))


async def test_v1_replaces_what_scripts_deployed_in_one_step(daemon: Instance, folder: str) -> None:
    await daemon.deploy("text_ml:app", name="script", route_prefix="/", folder=folder)
    document = with_folder(PUT_V1, folder)

    plans = (await daemon.admin.post(f"{V2}diff", json=document)).json()["applications"]
    assert {name: plan["action"] for name, plan in plans.items()} == {"script": "remove", "default": "create"}
    assert is_empty_200(await daemon.admin.put(V1, json=document)), "its prefix is free, since script goes"
    assert (await settled(daemon, "default"))["status"] == "RUNNING"
    with anyio.fail_after(DEADLINE_S):
        while set((await get(daemon, V2))["applications"]) != {"default"}:
            pass


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"host": "10.1.2.3"}, "host"),
        ({"port": 1}, "port"),
        ({"name": "mine"}, "name"),
        ({"name": "default"}, "name"),
        ({"applications": []}, "applications"),
    ],
)
async def test_v1_refuses_what_its_document_may_not_say(
    daemon: Instance, folder: str, change: dict[str, Any], path: str
) -> None:
    document = with_folder(PUT_V1, folder)
    same = {"host": daemon.info.http_host, "port": daemon.info.http_port}
    assert is_empty_200(await daemon.admin.put(V1, json={**document, **same}))

    refused = await daemon.admin.put(V1, json={**document, **change})
    assert refused.status_code == 400
    assert refused.json()["path"] == path
    assert await get(daemon, V1) == {**document, **same}


# --- paths, methods, slashes ---------------------------------------------------------------------

#: Ray Serve's own paths, and the methods each has.
PATHS = {
    "/api/serve/applications": {"GET", "HEAD", "PUT", "PATCH", "DELETE"},
    "/api/serve/deployments": {"GET", "HEAD", "PUT", "DELETE"},
    "/api/serve/deployments/status": {"GET", "HEAD"},
    "/api/v1/applications/a/deployments/b/scale": {"POST"},
}


async def test_paths_mean_the_same_with_and_without_a_slash_and_have_their_methods_only(
    daemon: Instance,
) -> None:
    for path, methods in PATHS.items():
        for one in (path, f"{path}/"):
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
                if method in methods:
                    continue
                answer = await daemon.admin.request(method, one)
                assert answer.status_code == 405, (method, one)
                assert set(answer.headers["allow"].split(", ")) == methods
                assert set(answer.json()) == {"error", "path"}
            if "GET" in methods:
                full, head = await daemon.admin.get(one), await daemon.admin.head(one)
                assert (full.status_code, head.status_code, head.content) == (200, 200, b"")
                assert full.json() == (await daemon.admin.get(path)).json()
                assert head.headers["content-length"] == full.headers["content-length"]


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/serve", "/api/serve/applications//", "/api/serve/application/", "/api/serve/%00"],
)
async def test_unknown_paths_are_404_as_json(daemon: Instance, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PROPFIND"):
        answer = await daemon.admin.request(method, path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"error", "path"}


async def test_details_can_be_asked_for_one_source(daemon: Instance, folder: str) -> None:
    await daemon.admin.put(V2, json=with_folder(PUT_V2, folder))
    await daemon.deploy("text_ml:app", name="script", route_prefix=None, folder=folder)
    for asked, names in (
        ("declarative", {"text_app"}),
        ("DECLARATIVE", {"text_app"}),
        ("Imperative", {"script"}),
        ("", {"text_app", "script"}),
    ):
        assert set((await get(daemon, f"{V2}?api_type={asked}"))["applications"]) == names
    answer = await daemon.admin.get(V2, params={"api_type": "other"})
    assert (answer.status_code, answer.json()["path"]) == (400, "api_type")
    assert "Invalid 'api_type' value 'other'" in answer.json()["error"]
