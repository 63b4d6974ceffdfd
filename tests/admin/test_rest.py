"""The REST API with the real web application and a controller that only remembers what it was told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_lite.admin.app import build_app
from serve_lite.controller.goals import NotScalableError, StaleRevisionError, UnknownNameError
from serve_lite.controller.store import EventRow
from serve_lite.exceptions import InstanceError, InvalidConfigError, RayServeException
from serve_lite.policy.diff import AppPlan
from serve_lite.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ServeStatus,
)
from serve_lite.state.ids import DeploymentId
from serve_lite.state.status import RevisionSummary
from serve_lite.wire.messages import DeployReply, DeployRequest
from tests.admin.tokens import tokens_in

V1, V2 = "/api/serve/deployments/", "/api/serve/applications/"
ONE_APP = {"applications": [{"name": "shop", "route_prefix": "/shop", "import_path": "shop:app"}]}


class Options:
    admin_host = "127.0.0.1"


class RememberingController:
    """Takes every request as the goal and reports it as running."""

    def __init__(self) -> None:
        self.requests: list[DeployRequest] = []
        self.deleted: list[str] = []
        self.apps: dict[str, ApplicationStatusOverview] = {}
        self.configs: dict[str, dict[str, Any] | None] = {}
        self.refusal: Exception | None = None

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def submit(self, request: DeployRequest, /) -> DeployReply:
        self._refuse()
        self.requests.append(request)
        for name in list(self.apps):
            if request.replace_all and name not in {app.name for app in request.apps}:
                del self.apps[name]
        for app in request.apps:
            self.apps[app.name] = ApplicationStatusOverview(status=ApplicationStatus.RUNNING)
            self.configs[app.name] = app.document
        return DeployReply(revision=len(self.requests))

    async def plan(self, request: DeployRequest, /) -> dict[str, AppPlan]:
        return {app.name: AppPlan(action="create") for app in request.apps}

    async def scale(
        self, deployment: DeploymentId, target: int, is_manual: bool, if_revisions: object, /
    ) -> DeployReply:
        raise AssertionError("asked of real instances only")

    async def events(self, limit: int, /) -> list[EventRow]:
        self._refuse()
        return []

    async def history(self, name: str, /) -> list[RevisionSummary]:
        self._refuse()
        return []

    async def rollback(self, name: str, revision: int | None, if_revisions: object, /) -> DeployReply:
        self._refuse()
        raise AssertionError("asked of real instances only")

    def tag(self) -> str:
        return f"node-{len(self.requests)}"

    async def clear(self, if_revisions: object, /) -> list[str]:
        self._refuse()
        names = list(self.apps)
        await self.delete(names, if_revisions)
        return names

    async def delete(self, names: list[str], if_revisions: object, /) -> None:
        self.deleted += names
        for name in names:
            self.apps.pop(name, None)

    async def wait_apps(self, names: list[str], /) -> ServeStatus:
        return self.status()

    def status(self) -> ServeStatus:
        return ServeStatus(applications=dict(self.apps))

    def details(self) -> dict[str, Any]:
        apps = {
            name: {"name": name, "deployed_app_config": copy.deepcopy(config), "source": "declarative"}
            for name, config in self.configs.items()
            if name in self.apps
        }
        return {"applications": apps, "http_options": {"host": "127.0.0.1", "port": 8000}, "proxies": {}}


@pytest.fixture
def controller() -> RememberingController:
    return RememberingController()


@pytest.fixture
def client(controller: RememberingController) -> httpx.AsyncClient:
    app = build_app(controller, Options())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:52365")


@pytest.mark.parametrize("path", [V2, V2.rstrip("/")])
async def test_a_put_document_is_handed_on_whole_and_answered_with_an_empty_200(
    path: str, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    answer = await client.put(path, json=ONE_APP)

    assert (answer.status_code, answer.content) == (200, b"")
    (request,) = controller.requests
    assert request.replace_declarative
    assert request.document == ONE_APP
    (app,) = request.apps
    assert (app.name, app.route_prefix, app.source) == ("shop", "/shop", "declarative")
    assert app.build is not None and app.build.import_path == "shop:app"
    assert app.document == ONE_APP["applications"][0]


async def test_the_same_code_has_the_same_version_whatever_the_options(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    app = ONE_APP["applications"][0]
    for changes in ({}, {"deployments": [{"name": "A", "num_replicas": 3}]}, {"args": {"size": "large"}}):
        assert (await client.put(V2, json={"applications": [{**app, **changes}]})).status_code == 200

    first, scaled, rebuilt = (request.apps[0].code_version for request in controller.requests)
    assert first == scaled != rebuilt


async def test_a_runtime_env_becomes_folders_and_variables(
    controller: RememberingController, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    module = tmp_path / "libs" / "mine"
    module.mkdir(parents=True)
    env = {"working_dir": str(tmp_path), "py_modules": [str(module)], "env_vars": {"MODE": "fast"}}
    app = {**ONE_APP["applications"][0], "runtime_env": env}
    assert (await client.put(V2, json={"applications": [app]})).status_code == 200

    environment = controller.requests[0].apps[0].environment
    assert environment.cwd == str(tmp_path)
    assert environment.sys_path == (str(tmp_path), str(module.parent))
    assert environment.env_vars == {"MODE": "fast"}


async def test_the_folder_a_client_names_is_where_code_is_looked_for(
    controller: RememberingController, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await client.put(V2, json=ONE_APP, headers={"serve-lite-base-dir": str(tmp_path)})

    environment = controller.requests[0].apps[0].environment
    assert (environment.cwd, environment.sys_path) == (str(tmp_path), (str(tmp_path),))


def shop(**changes: object) -> dict[str, Any]:
    return {"applications": [{**ONE_APP["applications"][0], **changes}]}


WRONG_DOCUMENTS: dict[str, tuple[object, str, str]] = {
    # name: (document, path that is told, words that are told)
    "no applications": ({}, "applications", "applications"),
    "a misspelt key": ({"aplications": []}, "aplications", "applications"),
    "a misspelt key of an app": (shop(import_pth="a:b"), "applications[0].import_pth", "import_path"),
    "an app without an import path": (
        {"applications": [{"name": "a"}]},
        "applications[0].import_path",
        "import_path",
    ),
    "an import path without a name": (shop(import_path="shop"), "applications[0].import_path", "shop"),
    "a prefix without a slash": (shop(route_prefix="shop"), "applications[0].route_prefix", "'/'"),
    "two apps on one prefix": (
        {"applications": [{"name": n, "import_path": "a:b"} for n in "ab"]},
        "applications[1].route_prefix",
        "/",
    ),
    "two apps of one name": (
        {"applications": [{"import_path": "a:b", "route_prefix": p} for p in ("/a", "/b")]},
        "applications[1].name",
        "default",
    ),
    "no replicas": (
        shop(deployments=[{"name": "A", "num_replicas": 0}]),
        "applications[0].deployments[0].num_replicas",
        "larger than 0",
    ),
    "a directory that is not there": (
        shop(runtime_env={"working_dir": "/nowhere/at/all"}),
        "applications[0].runtime_env.working_dir",
        "does not exist",
    ),
    "a relative directory": (
        shop(runtime_env={"working_dir": "here"}),
        "applications[0].runtime_env.working_dir",
        "absolute",
    ),
    "an environment variable that is no text": (
        shop(runtime_env={"env_vars": {"N": 1}}),
        "applications[0].runtime_env.env_vars.N",
        "'1'",
    ),
    "packages to install": (
        shop(runtime_env={"pip": ["torch"], "uv": ["torch"]}),
        "applications[0].runtime_env.uv",
        "both pip and uv",
    ),
    "a misspelt key of the environment": (
        shop(runtime_env={"env_var": {}}),
        "applications[0].runtime_env.env_var",
        "env_vars",
    ),
}


@pytest.mark.parametrize("case", WRONG_DOCUMENTS)
async def test_a_wrong_document_is_refused_with_its_place_and_changes_nothing(
    case: str, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    document, path, words = WRONG_DOCUMENTS[case]
    answer = await client.put(V2, json=document)

    assert answer.status_code == 400
    assert answer.json()["path"] == path
    assert words in answer.json()["error"]
    assert controller.requests == []


@pytest.mark.parametrize("body", [b"", b"{", b"applications: []", b"[]", b'"x"', b"\xff\xfe", b"null"])
async def test_a_body_that_is_no_json_object_is_refused(
    body: bytes, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    for path in (V1, V2):
        answer = await client.put(path, content=body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error", "path"}
    assert controller.requests == []


@pytest.mark.parametrize(
    "refusal", [RayServeException('Prefix / is being used by application "a".'), InvalidConfigError("No.")]
)
async def test_what_the_controller_refuses_is_told_to_the_client(
    refusal: Exception, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    controller.refusal = refusal
    answer = await client.put(V2, json=ONE_APP)
    assert (answer.status_code, answer.json()["error"]) == (400, str(refusal))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StaleRevisionError("Changed."), 412),
        (UnknownNameError("None."), 404),
        (NotScalableError("No."), 412),
        (InstanceError("The disk is full."), 503),
        (RayServeException("No."), 400),
    ],
)
async def test_the_status_says_whose_trouble_it_is(
    error: Exception, status: int, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    controller.refusal = error
    for method, path in (
        ("PUT", V2),
        ("PUT", V1),
        ("DELETE", V2),
        ("DELETE", V1),
        ("GET", "/api/serve/events"),
        ("GET", f"{V2}a/history"),
        ("POST", f"{V2}a/rollback"),
    ):
        document = {"import_path": "a:b"} if path == V1 else ONE_APP if path == V2 else {}
        answer = await client.request(method, path, json=document)
        assert (answer.status_code, answer.json()) == (status, {"error": str(error), "path": ""})


async def test_a_mistake_of_ours_tells_nothing_of_the_inside(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    controller.refusal = KeyError("/home/someone/secret")
    answer = await client.put(V2, json=ONE_APP)
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal Server Error", "path": ""})


async def test_get_tells_the_details_and_can_be_asked_for_one_source(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    await client.put(V2, json=ONE_APP)

    everything = (await client.get(V2)).json()
    assert everything["applications"]["shop"]["deployed_app_config"] == ONE_APP["applications"][0]
    assert (await client.get(V2, params={"api_type": "Imperative"})).json()["applications"] == {}
    assert (await client.get(V2, params={"api_type": "declarative"})).json() == everything
    assert (await client.get(V2, params={"api_type": "other"})).status_code == 400


async def test_delete_removes_everything_and_the_door_stays_open(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    await client.put(V2, json=ONE_APP)

    assert (await client.delete(V2)).status_code == 200
    assert (await client.delete(V2)).status_code == 200  # nothing there any more: no harm
    assert controller.deleted == ["shop"]
    assert (await client.put(V2, json=ONE_APP)).status_code == 200


async def test_one_application_can_be_deleted_by_name(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    await client.put(V2, json=ONE_APP)

    assert (await client.delete(f"{V2}other")).status_code == 404
    assert (await client.delete(f"{V2}shop")).status_code == 200
    assert controller.deleted == ["shop"]


@pytest.mark.parametrize("path", ["/", "/api", "/api/serve", "/api/serve/applications/a/b", "/docs"])
async def test_an_unknown_path_is_404_as_json(path: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    assert path in answer.json()["error"]


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_an_unknown_method_is_405_and_tells_the_right_ones(
    method: str, client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, V2)
    assert answer.status_code == 405
    assert "error" in answer.json()
    assert {"GET", "PUT", "DELETE"} <= set(answer.headers["allow"].split(", "))


async def test_clients_of_ray_find_the_version_they_ask_for_first(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/ray/version")).json()
    assert tuple(map(int, answer["ray_version"].split("."))) >= (1, 12)
    assert answer["version"] == "4"


async def test_the_control_plane_says_that_it_is_well(client: httpx.AsyncClient) -> None:
    assert (await client.get("/-/healthz")).text == "success"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", V2), ("PUT", V2), ("GET", "/nowhere"), ("BREW", V2), ("GET", "/-/healthz")]
)
async def test_the_gate_stands_before_every_route_and_method(
    method: str, path: str, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, path, headers={"host": "evil.example"}, json=ONE_APP)
    assert answer.status_code == 403
    assert controller.requests == []


def test_a_control_plane_open_to_others_is_not_even_built_without_a_token(
    controller: RememberingController, tmp_path: Path
) -> None:
    class Open:
        admin_host = "0.0.0.0"

    with pytest.raises(InvalidConfigError, match="token"):
        build_app(controller, Open())
    build_app(controller, Open(), tokens=tokens_in(tmp_path))


# --- V1 -----------------------------------------------------------------------------------------


async def test_v1_before_anything_is_deployed_shows_empty_shapes(client: httpx.AsyncClient) -> None:
    assert (await client.get(V1)).json() == {"import_path": "", "runtime_env": {}, "deployments": []}
    assert (await client.get(f"{V1}status")).json() == {
        "app_status": {"status": "NOT_STARTED", "message": "", "deployment_timestamp": 0},
        "deployment_statuses": [],
    }


async def test_v1_keeps_the_document_as_it_was_submitted(client: httpx.AsyncClient) -> None:
    document = {"import_path": "text_ml:app", "deployments": [{"name": "A", "user_config": {"x": 1}}]}
    assert (await client.put(V1, json=document)).status_code == 200
    assert (await client.get(V1)).json() == document


async def test_v1_replaces_everything_else_that_runs(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    controller.apps["other"] = ApplicationStatusOverview(status=ApplicationStatus.RUNNING)
    await client.put(V1, json={"import_path": "text_ml:app"})
    assert list(controller.apps) == ["default"]


@pytest.mark.parametrize(
    ("change", "path"),
    [({"name": "a"}, "name"), ({"port": 9000}, "port"), ({"host": "0.0.0.0"}, "host"), ({"x": 1}, "x")],
)
async def test_v1_refuses_names_other_listeners_and_unknown_keys(
    change: dict[str, object], path: str, controller: RememberingController, client: httpx.AsyncClient
) -> None:
    answer = await client.put(V1, json={"import_path": "text_ml:app", **change})
    assert (answer.status_code, answer.json()["path"]) == (400, path)
    assert controller.requests == []


async def test_v1_tells_statuses_in_the_three_words_of_2_7(
    controller: RememberingController, client: httpx.AsyncClient
) -> None:
    def deployment(
        status: str, trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    ) -> DeploymentStatusOverview:
        return DeploymentStatusOverview(DeploymentStatus(status), trigger, message=status.lower())

    automatic = DeploymentStatusTrigger.AUTOSCALING
    controller.apps["default"] = ApplicationStatusOverview(
        status=ApplicationStatus.DEPLOYING,
        message="m",
        last_deployed_time_s=12.5,
        deployments={
            **{str(s): deployment(s) for s in DeploymentStatus},
            "BY_ITSELF": deployment("UPSCALING", automatic),
        },
    )
    told = (await client.get(f"{V1}status")).json()

    assert told["name"] == "default"
    assert told["app_status"] == {"status": "DEPLOYING", "message": "m", "deployment_timestamp": 12.5}
    assert {one["name"]: one["status"] for one in told["deployment_statuses"]} == {
        "UPDATING": "UPDATING",
        "HEALTHY": "HEALTHY",
        "UNHEALTHY": "UNHEALTHY",
        "DEPLOY_FAILED": "UNHEALTHY",
        "UPSCALING": "UPDATING",
        "DOWNSCALING": "UPDATING",
        "BY_ITSELF": "HEALTHY",
    }
    assert all(one["message"] for one in told["deployment_statuses"])
