"""Requests made up from the description, right and wrong ones, sent to a real instance over a real socket.

Whatever is sent, the answer is one that the description names, and no fault of ours; and an application that was there
before goes on in the processes it had. It comes from a script, so that no document is about it; what removes everything
is sent there with a condition that does not hold, and for what it does to an instance of its own.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_lite.admin.app import ENDPOINTS
from tests.admin.test_rest_of_an_instance import CODE
from tests.instances import DEADLINE_S, Instance

V2 = "/api/serve/applications/"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: What ends applications whatever their name, or may.
DESTRUCTIVE = {"put_deployments", "delete_deployments", "delete_applications"}
STALE = {"If-Match": '"another-1"'}
EXAMPLES = 10  #: of each operation, right ones and as many wrong ones


class Made:
    """Sends made-up requests to one instance and judges the answers. Blocks, so it runs in a thread."""

    def __init__(self, url: str) -> None:
        self.statuses: Counter[tuple[str, str, int]] = Counter()
        self._client = httpx.Client(base_url=url, timeout=DEADLINE_S)
        self._url = url
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self.operations = {o.definition.raw["operationId"]: o for o in map(_ok, schema.get_all_operations())}

    def send(self, name: str, mode: GenerationMode, *, headers: dict[str, str] | None = None) -> None:
        """Send requests for one operation; fail at the first answer that is not as described."""
        operation = self.operations[name]

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def each(case: Case) -> None:
            assume(not fetches(case.body))
            answer = case.call(base_url=self._url, headers=headers, timeout=DEADLINE_S)
            self.statuses[name, mode.value, answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)
            self.judge(answer.status_code)

        each()

    def judge(self, status: int) -> None:
        """Look at the instance after an answer."""

    def close(self) -> None:
        self._client.close()


class Watched(Made):
    """The same, beside an application that must not notice."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.pids = self._seen()

    def judge(self, status: int) -> None:
        assert self._seen() == self.pids

    def _seen(self) -> list[int]:
        kept = self._client.get(V2, params={"api_type": "imperative"}).json()["applications"]["kept"]
        assert kept["status"] == "RUNNING"
        return [replica["pid"] for replica in kept["deployments"]["Hello"]["replicas"]]


#: Parts of a runtime_env that may be fetched from somewhere. Nobody is to be asked for names that are made up.
FETCHED = {"pip", "uv", "conda", "working_dir", "py_modules", "py_executable", "container", "image_uri"}


def fetches(value: object) -> bool:
    """Whether a document has something in it that an instance may fetch."""
    if isinstance(value, dict):
        return not FETCHED.isdisjoint(value) or any(map(fetches, value.values()))
    return isinstance(value, list) and any(map(fetches, value))


def _ok(found: object) -> APIOperation:
    operation: APIOperation = found.ok()  # type: ignore[attr-defined]  # a Result
    return operation


def can_be_wrong(name: str) -> bool:
    """Whether a request for the operation can be wrong; any text will do for a name in the path or a condition."""
    (endpoint,) = [e for e in ENDPOINTS if e.id == name]
    return endpoint.body is not None or any(p.place == "query" for p in endpoint.parameters)


async def test_made_up_requests_are_answered_as_described_and_what_runs_goes_on(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(CODE)
    await daemon.deploy("shop:app", name="kept", route_prefix="/kept", folder=tmp_path)

    def work() -> Counter[tuple[str, str, int]]:
        made = Watched(daemon.admin_url)
        try:
            assert len(made.pids) == 1
            # The tool leaves out the path that it has read the description from.
            assert set(made.operations) == {e.id for e in ENDPOINTS} - {"get_openapi_short"}
            for name in made.operations:
                headers = STALE if name in DESTRUCTIVE else None
                made.send(name, GenerationMode.POSITIVE, headers=headers)
                if can_be_wrong(name):
                    made.send(name, GenerationMode.NEGATIVE, headers=headers)
        finally:
            made.close()
        return made.statuses

    statuses = await anyio.to_thread.run_sync(work)
    named = {status for _, _, status in statuses}
    assert {200, 400, 404, 412} <= named, f"too little was tried: {statuses}"
    assert (await daemon.http.get("/kept")).text == "hello world"


async def test_odd_import_paths_become_failed_applications_and_do_no_harm(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(CODE)
    (tmp_path / "leaving.py").write_text("import os\nos._exit(3)\n")
    await daemon.deploy("shop:app", name="kept", route_prefix="/kept", folder=tmp_path)
    pids = daemon.pids("replica")
    odd = (
        "os:abort",
        "sys:exit",
        "builtins:open",
        "nowhere:app",
        "a.b.c:d",
        "ümläut:ö",
        "...:x",
        "leaving:app",
    )
    apps = [
        {
            "name": f"odd{i}",
            "route_prefix": None,
            "import_path": path,
            "runtime_env": {"working_dir": str(tmp_path)},
        }
        for i, path in enumerate(odd)
    ]
    assert (await daemon.admin.put(V2, json={"applications": apps})).status_code == 200
    with anyio.fail_after(DEADLINE_S):
        while True:
            there = (await daemon.admin.get(V2)).json()["applications"]
            statuses = {name: app["status"] for name, app in there.items()}
            if "DEPLOYING" not in statuses.values():
                break
    assert statuses == {"kept": "RUNNING", **{app["name"]: "DEPLOY_FAILED" for app in apps}}
    assert all(there[app["name"]]["message"] for app in apps)
    assert daemon.pids("replica") == pids


async def test_an_instance_survives_what_is_meant_to_remove_everything(daemon: Instance) -> None:
    def work() -> None:
        made = Made(daemon.admin_url)
        try:
            for name in sorted(DESTRUCTIVE):
                made.send(name, GenerationMode.POSITIVE)
        finally:
            made.close()

    await anyio.to_thread.run_sync(work)
    assert (await daemon.admin.delete(V2)).status_code == 200
    assert (await daemon.admin.get(V2)).json()["applications"] == {}
