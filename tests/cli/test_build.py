"""`serve build`: what it prints is a document, says every option, and deploys as it is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from serve_lite.admin.documents import deploy_request
from tests.cli.commands import Cli, text_of

GRAPH = """
import serve_lite as serve

print("a line that is no YAML")


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=7,
    user_config={"who": "you"},
    ray_actor_options={"num_cpus": 0.5, "runtime_env": {"env_vars": {"LEVEL": "3"}}},
)
class Inner:
    def reconfigure(self, config):
        self.who = config["who"]

    def __call__(self):
        return f"hello {self.who}"


@serve.deployment(autoscaling_config={"min_replicas": 1, "max_replicas": 3}, serialize_sync=True)
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, request):
        return await self.inner.remote()


@serve.deployment(user_config=b"raw")
class Raw:
    def reconfigure(self, config):
        pass

    def __call__(self, request):
        return "raw"


app = Outer.bind(Inner.bind())
raw = Raw.bind()


def builder(args):
    return app
"""


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture
def graph(cli: Cli) -> Cli:
    cli.write("graph.py", GRAPH)
    return cli


async def test_what_is_built_has_every_option_and_nothing_else_is_on_stdout(graph: Cli) -> None:
    done = await graph("build", "graph:app")
    assert done.code == 0, done
    assert re.match(
        r"# This file was generated using the `serve build` command of serve-lite v\S+\n\n", done.out
    )
    assert "a line that is no YAML" in done.err
    document = read(done.out)
    assert list(document) == [
        "proxy_location", "http_options", "grpc_options", "logging_config", "applications",
    ]  # fmt: skip
    assert document["http_options"] == {"host": "127.0.0.1", "port": 8000}
    (app,) = document["applications"]
    assert list(app) == ["name", "route_prefix", "import_path", "runtime_env", "deployments"]
    assert (app["name"], app["route_prefix"], app["import_path"]) == ("app1", "/", "graph:app")
    inner, outer = app["deployments"]
    assert (inner["name"], inner["num_replicas"], inner["max_ongoing_requests"]) == ("Inner", 2, 7)
    assert inner["user_config"] == {"who": "you"}
    assert inner["ray_actor_options"] == {"num_cpus": 0.5, "runtime_env": {"env_vars": {"LEVEL": "3"}}}
    assert "num_replicas" not in outer
    assert outer["autoscaling_config"]["max_replicas"] == 3
    assert outer["serialize_sync"] is True
    assert outer["health_check_period_s"] == 10.0  # a default


async def test_what_is_built_deploys_as_it_is(graph: Cli) -> None:
    await graph.start()
    assert (await graph("build", "graph:app", "-o", "serve.yaml")).code == 0
    deployed = await graph("deploy", "serve.yaml")
    assert deployed.code == 0, deployed
    assert await graph.until_settled("app1") == "RUNNING"
    url = re.search(r"HTTP +(http\S+)", (await graph("start")).out)[1]  # type: ignore[index]
    assert await text_of(url) == "hello you"


async def test_what_is_built_is_what_the_code_says_anyway(graph: Cli) -> None:
    await graph.start()
    document = read((await graph("build", "graph:app")).out)
    del document["logging_config"]
    bare = {**document, "applications": [{**document["applications"][0], "deployments": []}]}
    assert (await graph("deploy", graph.write("bare.yaml", json.dumps(bare)), "--wait")).code == 0
    plans = json.loads((await graph("diff", graph.write("full.yaml", json.dumps(document)), "--json")).out)
    assert plans["app1"]["action"] == "nothing", plans


async def test_the_folder_of_the_code_is_named_where_the_file_lies_elsewhere(graph: Cli) -> None:
    (graph.folder / "code").mkdir()
    (graph.folder / "conf").mkdir()
    (graph.folder / "graph.py").rename(graph.folder / "code" / "graph.py")
    done = await graph("build", "graph:app", "-d", "code", "-o", "conf/serve.yaml", "--single-app")
    assert (done.code, done.out) == (0, ""), done
    document = read((graph.folder / "conf" / "serve.yaml").read_text())
    assert list(document) == ["import_path", "runtime_env", "deployments"]
    assert document["runtime_env"] == {"working_dir": "../code"}
    await graph.start()
    assert (await graph("deploy", "conf/serve.yaml")).code == 0
    assert await graph.until_settled("default") == "RUNNING"


async def test_several_targets_become_applications_of_one_file(graph: Cli) -> None:
    done = await graph(
        "build", "graph:app", "shop:app", "--multi-app", "--grpc-servicer-functions", "a_pb2_grpc:add",
        "--grpc-disable-reflection",
    )  # fmt: skip
    assert "--multi-app is the default" in done.err
    document = read(done.out)
    assert [(a["name"], a["route_prefix"]) for a in document["applications"]] == [
        ("app1", "/app1"),
        ("app2", "/app2"),
    ]
    assert document["grpc_options"] == {
        "port": 9000,
        "grpc_servicer_functions": ["a_pb2_grpc:add"],
        "enable_reflection": False,
    }
    assert len(deploy_request(document).apps) == 2


async def test_a_manifest_holds_a_document_that_ray_can_read(graph: Cli) -> None:
    done = await graph("build", "--single-app", "-k", "graph:app")
    manifest = read(done.out)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    assert manifest["metadata"] == {"name": "outer"}
    (container,) = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("rayproject/ray:")
    document = read(manifest["spec"]["serveConfigV2"])
    assert [app.name for app in deploy_request(document).apps] == ["app1"]
    assert "serve_lite" not in manifest["spec"]["serveConfigV2"]
    assert all("serialize_sync" not in d for d in document["applications"][0]["deployments"])


async def test_a_config_of_bytes_stays_in_the_code(graph: Cli) -> None:
    done = await graph("build", "graph:raw")
    assert "'Raw' is bytes" in done.err
    assert "user_config" not in read(done.out)["applications"][0]["deployments"][0]


WRONG = {
    "no such attribute": (["graph:nope"], "no 'nope'"),
    "a builder": (["graph:builder"], "to be an Application"),
    "a raising module": (["bad:app"], "LookupError: not today (at "),
    "a module that ends the process": (["gone:app"], "ended with status 3"),
    "both formats": (["graph:app", "--multi-app", "--single-app"], "both --multi-app and --single-app"),
    "a manifest of many": (["graph:app", "-k"], "does not support Kubernetes format"),
    "one of two": (["graph:app", "shop:app", "--single-app"], "takes one import path"),
    "no folder": (["graph:app", "-d", "nowhere"], "'nowhere', which is not a directory"),
    "no place to write": (["graph:app", "-o", "nowhere/x.yaml"], "Cannot write 'nowhere/x.yaml'"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_built_is_one_clear_error_and_prints_no_document(graph: Cli, case: str) -> None:
    graph.write("bad.py", "raise LookupError('not today')\n")
    graph.write("gone.py", "import os; os._exit(3)\n")
    words, said = WRONG[case]
    done = await graph("build", *words)
    assert (done.code, done.out) == (1, ""), done
    assert said in re.search(r"^Error: (.*)", done.err, re.MULTILINE)[1]  # type: ignore[index]
