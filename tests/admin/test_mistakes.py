"""All mistakes of a document are told, and nothing else: no consequence of one is told as another."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.admin.documents import deploy_request, single_app_request
from serve_lite.admin.mistakes import MOST_MISTAKES, find_mistakes, path_of
from serve_lite.controller.goals import accept_deploy
from serve_lite.state.goal import Goal
from tests.instances import Instance

RIGHT: dict[str, Any] = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "127.0.0.1", "port": 8000},
    "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
    "logging_config": {"log_level": "INFO"},
    "target_capacity": 100,
    "applications": [
        {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": "shop:app",
            "runtime_env": {"env_vars": {"A": "1", "B": "2"}},
            "args": {"size": 3},
            "deployments": [
                {
                    "name": "Scaled",
                    "num_replicas": "auto",
                    "autoscaling_config": {"min_replicas": 1, "max_replicas": 4},
                    "ray_actor_options": {"num_cpus": 1},
                },
                {"name": "Fixed", "num_replicas": 2, "user_config": {"a": 1}, "max_queued_requests": 5},
            ],
        }
        for name in ("one", "two", "three")
    ],
}
NOWHERE = "/there/is/no/such/directory"

#: Where to write what, with the path that must be told of it. "N" is an application of its own for each mistake.
WRONG: dict[str, Any] = {
    "http_options.port": "many",
    "http_options.prot": 80,
    "proxy_location": "Nowhere",
    "logging_config.log_level": "LOUD",
    "target_capacity": 101,
    "grpc_options.enable": True,
    "misspelt": 1,
    "applications[0].route_prefix": "one",
    "applications[0].import_path": "shop",
    "applications[0].deployments[0].num_replica": 3,
    "applications[0].deployments[0].autoscaling_config.max_replica": 3,
    "applications[0].deployments[0].ray_actor_options.num_cpus": -1,
    "applications[0].deployments[1].name": "",
    "applications[0].deployments[1].num_replicas": 0,
    "applications[0].deployments[1].max_queued_requests": 0,
    "applications[1].name": "",
    "applications[1].route_prfix": "/one",
    "applications[1].port": 8000,
    "applications[1].num_replicas": 3,
    "applications[1].deployments[1].import_path": "a:b",
    "applications[1].deployments[1].name": "Scaled",
    "applications[1].deployments[0].autoscaling_config.min_replicas": 5,
    "applications[1].runtime_env.env_vars.B": 2,
    "applications[2].name": "one/two",
    "applications[2].route_prefix": "/one",
    "applications[2].args": [],
    "applications[2].deployments[0].name": 3,
    "applications[2].deployments[0].autoscaling_config": "auto",
    "applications[2].runtime_env.working_dir": NOWHERE,
}


def put(document: Any, path: str, value: Any) -> None:
    *way, last = path.replace("[", ".[").split(".")
    for part in way:
        document = document[int(part[1:-1])] if part.startswith("[") else document[part]
    document[last] = value


def check(document: dict[str, Any]) -> object:
    return accept_deploy(Goal(), deploy_request(document), now=0.0, alive=())


def told(document: Any) -> list[str]:
    return sorted(path_of(error) for error in find_mistakes(document, check))


def test_a_right_document_has_no_mistakes_and_a_search_leaves_it_as_it_was() -> None:
    before = copy.deepcopy(RIGHT)
    assert told(RIGHT) == []
    assert before == RIGHT


@given(st.sets(st.sampled_from(sorted(WRONG))))
def test_every_mistake_is_told_and_nothing_else(places: set[str]) -> None:
    document = copy.deepcopy(RIGHT)
    for place in places:
        put(document, place, WRONG[place])
    if "applications[0].route_prefix" in places:
        places = places - {"applications[2].route_prefix"}  # nobody else has "/one" then
    before = copy.deepcopy(document)
    assert told(document) == sorted(places)
    assert document == before


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ({}, ["applications"]),
        ({"aplications": []}, ["aplications"]),  # what is missing is what was misspelt
        ({"applications": 3, "http_option": 1}, ["applications", "http_option"]),
        ({"applications": ["x", {"import_path": "y"}]}, ["applications[0]", "applications[1].import_path"]),
        ({"applications": [{"import_pth": "a:b", "naem": ""}]},
         ["applications[0].import_pth", "applications[0].naem"]),
        ({"applications": [{"name": "a", "deployments": [{"name": "D", "import_path": "a:b"}]}]},
         ["applications[0].deployments[0].import_path"]),
        ({"applications": [{"import_path": "a:b", "deployments": [{"nme": "D"}, {"num_replicas": 0}]}]},
         ["applications[0].deployments[0].nme", "applications[0].deployments[1].name",
          "applications[0].deployments[1].num_replicas"]),
        ({"applications": [{"import_path": "a:b"}, {"import_path": "a:b"}]},
         ["applications[1].name", "applications[1].route_prefix"]),
        ({"applications": [{"import_path": "a:b", "name": "x", "route_prfix": "/x"}, {"import_path": "a:b"}]},
         ["applications[0].route_prfix"]),
        ({"applications": [{"import_path": "a:b", "runtime_env": {"py_modules": [NOWHERE, "/tmp", 3]}}]},
         ["applications[0].runtime_env.py_modules[0]", "applications[0].runtime_env.py_modules[2]"]),
        ({"applications": [{"import_path": "a:b", "runtime_env": {"env_vars": {"A.B": 1}, "pipp": 1}}]},
         ["applications[0].runtime_env.env_vars.A.B", "applications[0].runtime_env.pipp"]),
        ({"applications": [{"import_path": "a:b", "external_scaler_enabled": True,
                            "deployments": [{"name": n, "num_replicas": "auto"} for n in "AB"]}]},
         ["applications[0].deployments[0]", "applications[0].deployments[1]"]),
        ({"import_path": "a:b", "route_prefix": 3}, ["import_path"]),  # the other kind of document
    ],
    ids=str,
)  # fmt: skip
def test_what_follows_from_a_mistake_is_not_told_as_another(document: Any, paths: list[str]) -> None:
    assert told(document) == paths


def test_a_document_of_one_application_is_searched_too() -> None:
    document = {
        "import_path": "shop",
        "name": "x",
        "port": -1,
        "deployments": [{"name": "A", "num_replicas": 0}, {}],
    }
    errors = find_mistakes(document, single_app_request)
    assert sorted(path_of(e) for e in errors) == [
        "deployments[0].num_replicas", "deployments[1].name", "import_path", "name", "port",
    ]  # fmt: skip


def test_the_search_ends() -> None:
    document = {"applications": [], **{f"wrong{i}": i for i in range(MOST_MISTAKES + 5)}}
    assert len(told(document)) == MOST_MISTAKES


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST"])
async def test_rest_tells_the_first_mistake_and_all_of_them(daemon: Instance, method: str) -> None:
    document = {"applications": [{"import_path": "shop", "port": 3}], "target_capacity": 200}
    path = "/api/serve/applications/" + ("diff" if method == "POST" else "")
    answer = await daemon.admin.request(method, path, json=document)
    assert answer.status_code == 400
    said = answer.json()
    assert sorted(e["path"] for e in said["errors"]) == [
        "applications[0].import_path", "applications[0].port", "target_capacity",
    ]  # fmt: skip
    assert said["errors"][0] == {"error": said["error"], "path": said["path"]}
    assert (await daemon.admin.get("/api/serve/applications/")).json()["applications"] == {}


def test_wrong_schedules_are_told_one_by_one_without_consequences() -> None:
    document = copy.deepcopy(RIGHT)
    right = {"cron": "0 8 * * *", "until": "18:00", "min_replicas": 2}
    schedules = [
        {**right, "until": 1080},
        {**right, "cron": "0 25 * * *", "timezone": "Nowhere"},
        {"until": "18:00", "min_replicas": 2},
        {**right, "min_replicas": -1},
        {**right, "duration_s": 5},
        {**right, "min_replicas": 40},
        {"cron": "0 8 * * *", "duration_s": -1, "max_replicas": 3},
        right,
    ]
    document["applications"][1]["deployments"][0]["autoscaling_config"]["schedules"] = schedules
    where = "applications[1].deployments[0].autoscaling_config.schedules"
    found = find_mistakes(document, deploy_request)
    assert sorted(path_of(error) for error in found) == [
        f"{where}[0].until", f"{where}[1].cron", f"{where}[1].timezone", f"{where}[2].cron",
        f"{where}[3].min_replicas", f"{where}[4]", f"{where}[5]", f"{where}[6].duration_s",
    ]  # fmt: skip
