"""Conditional requests: two who change the configuration at once, and one who reads it again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.admin.conditions import revisions_in
from tests.admin.test_rest_of_an_instance import CODE, settled
from tests.instances import DEADLINE_S, Instance

V1, V2 = "/api/serve/deployments/", "/api/serve/applications/"
SCALE = "/api/v1/applications/one/deployments/Hello/scale?manual=true"


@pytest.fixture
def app(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "shop.py").write_text(CODE)
    return {"import_path": "shop:app", "runtime_env": {"working_dir": str(tmp_path)}}


async def tag(daemon: Instance) -> str:
    return (await daemon.admin.get(V2)).headers["etag"]


async def put(daemon: Instance, app: dict[str, Any], **changes: Any) -> httpx.Response:
    one = {"name": "one", "route_prefix": "/one", **app, **changes}
    return await daemon.admin.put(V2, json={"applications": [one]})


# --- what a header says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ('"node-7"', [7]),
        ('"node-7.0123456789abcdef"', [7]),
        ('"node-7", "node-9"', [7, 9]),
        ("*", None),
        (" * ", None),
        ("", []),
        (",,", []),
        ('W/"node-7"', []),
        ('"other-7"', []),
        ('"node-"', []),
        ('"node-x"', []),
        ('"node--7"', []),
        ('"node-²"', []),
        (f'"node-{"9" * 5000}"', []),
    ],
)
def test_a_header_takes_the_revisions_that_it_names(header: str, taken: list[int] | None) -> None:
    assert revisions_in(header, "node-3") == taken


@given(st.text())
def test_whatever_the_header_is_it_takes_what_is_ours_or_nothing(header: str) -> None:
    taken = revisions_in(header, "node-3")
    assert taken is None or all(isinstance(revision, int) for revision in taken)


# --- two writers ----------------------------------------------------------------------------------


async def test_two_writers_cannot_overwrite_each_other(daemon: Instance, app: dict[str, Any]) -> None:
    """Each adds its applications one at a time to what it has read, as a careful tool does; none is lost."""
    mine = {who: [f"{who}{i}" for i in range(4)] for who in ("left", "right")}
    refusals = dict.fromkeys(mine, 0)

    async def write(who: str) -> None:
        async with httpx.AsyncClient(base_url=daemon.admin_url, timeout=DEADLINE_S) as client:
            for name in mine[who]:
                entry = {"name": name, "route_prefix": f"/{name}", **app}
                while True:
                    seen = await client.get(V2)
                    there = [a["deployed_app_config"] for a in seen.json()["applications"].values()]
                    answer = await client.put(
                        V2,
                        json={"applications": [*there, entry]},
                        headers={"if-match": seen.headers["etag"]},
                    )
                    if answer.status_code == 200:
                        break
                    assert answer.status_code == 412
                    assert set(answer.json()) == {"error", "path"}
                    refusals[who] += 1

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            for who in mine:
                group.start_soon(write, who)
    there = (await daemon.admin.get(V2)).json()["applications"]
    assert set(there) == {*mine["left"], *mine["right"]}


#: Every way to change the configuration.
CHANGES: dict[str, tuple[str, str, Any]] = {
    "put": ("PUT", V2, {"applications": []}),
    "patch": ("PATCH", V2, {"applications": []}),
    "delete everything": ("DELETE", V2, None),
    "delete everything by V1": ("DELETE", V1, None),
    "delete one": ("DELETE", f"{V2}one", None),
    "scale": ("POST", SCALE, {"target_num_replicas": 2}),
    "roll back": ("POST", f"{V2}one/rollback", {}),
}


async def test_every_change_with_an_old_tag_is_refused_and_changes_nothing(
    daemon: Instance, app: dict[str, Any]
) -> None:
    await put(daemon, app)
    await settled(daemon, "one")
    old = await tag(daemon)
    await put(daemon, app, deployments=[{"name": "Hello", "max_ongoing_requests": 7}])
    await settled(daemon, "one")
    now = await tag(daemon)
    events = (await daemon.admin.get("/api/serve/events")).json()["events"]

    for method, path, body in CHANGES.values():
        answer = await daemon.admin.request(method, path, json=body, headers={"if-match": old})
        assert answer.status_code == 412, (method, path)
        assert set(answer.json()) == {"error", "path"}
        assert "changed meanwhile" in answer.json()["error"]
    assert await tag(daemon) == now
    assert (await daemon.admin.get("/api/serve/events")).json()["events"] == events


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_with_the_present_tag_is_made_and_tells_the_next_one(
    daemon: Instance, app: dict[str, Any], change: str
) -> None:
    for limit in (6, 7):
        await put(daemon, app, deployments=[{"name": "Hello", "max_ongoing_requests": limit}])
        await settled(daemon, "one")
    method, path, body = CHANGES[change]
    before = await tag(daemon)

    answer = await daemon.admin.request(method, path, json=body, headers={"if-match": before})
    assert answer.status_code == 200
    told, now = answer.headers["etag"].strip('"'), (await tag(daemon)).strip('"')
    assert now.startswith(f"{told}."), "the answer names the revision that is there now"
    assert not before.strip('"').startswith(f"{told}.")
    again = await daemon.admin.patch(
        V2, json={"applications": []}, headers={"if-match": answer.headers["etag"]}
    )
    assert again.status_code == 200


async def test_v1_takes_conditions_too(daemon: Instance, app: dict[str, Any]) -> None:
    seen = (await daemon.admin.get(V1)).headers["etag"]
    assert (await daemon.admin.put(V1, json=app, headers={"if-match": seen})).status_code == 200
    assert (await daemon.admin.put(V1, json=app, headers={"if-match": seen})).status_code == 412
    seen = (await daemon.admin.get(V1)).headers["etag"]
    assert (await daemon.admin.delete(V1, headers={"if-match": seen})).status_code == 200


async def test_scaling_by_load_and_statuses_do_not_make_a_tag_old(
    daemon: Instance, app: dict[str, Any]
) -> None:
    await put(daemon, app)
    first = await tag(daemon)
    await settled(daemon, "one")
    assert await tag(daemon) != first, "it is RUNNING now, and a reader wants to know"
    answer = await daemon.admin.request(
        "POST", SCALE, json={"target_num_replicas": 2}, headers={"if-match": first}
    )
    assert answer.status_code == 200, "the configuration is still the one that was seen"


# --- one reader -----------------------------------------------------------------------------------


async def test_a_reader_who_has_it_all_is_told_so(daemon: Instance, app: dict[str, Any]) -> None:
    await put(daemon, app)
    await settled(daemon, "one")
    full = await daemon.admin.get(V2)
    known = full.headers["etag"]

    for header in (known, f"W/{known}", f'"x", {known}', "*"):
        for method in ("GET", "HEAD"):
            answer = await daemon.admin.request(method, V2, headers={"if-none-match": header})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == known
    for header in ('"x"', "", known.strip('"')):
        assert (await daemon.admin.get(V2, headers={"if-none-match": header})).status_code == 200
    imperative = {"api_type": "imperative"}
    assert (
        await daemon.admin.get(V2, params=imperative, headers={"if-none-match": known})
    ).status_code == 200

    assert (await daemon.admin.post(SCALE, json={"target_num_replicas": 2})).status_code == 200
    changed = await daemon.admin.get(V2, headers={"if-none-match": known})
    assert (changed.status_code, changed.headers["etag"] != known) == (200, True)


async def test_a_reader_of_v1_is_told_so_too(daemon: Instance, app: dict[str, Any]) -> None:
    await daemon.admin.put(V1, json=app)
    known = (await daemon.admin.get(V1)).headers["etag"]
    assert (await daemon.admin.get(V1, headers={"if-none-match": known})).status_code == 304
    await daemon.admin.put(V1, json={**app, "deployments": [{"name": "Hello", "max_ongoing_requests": 7}]})
    assert (await daemon.admin.get(V1, headers={"if-none-match": known})).status_code == 200
