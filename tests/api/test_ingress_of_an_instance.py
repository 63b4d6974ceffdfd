"""`@serve.ingress` in a real instance: what FastAPI offers works behind the proxy, under a prefix, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import websockets

import serve_lite as serve
from serve_lite.schema import ApplicationStatus
from tests.api import ingress_apps
from tests.api.ingress_apps import FOLDER, FORMS, SAYS
from tests.instances import Instance, Instances, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def instance(instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance whose applications write their diary into `tmp_path`."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    daemon = await instances.start()
    monkeypatch.setenv("SERVE_LITE_HOME", daemon.home)
    return daemon


@pytest.fixture
def diary(tmp_path: Path) -> Callable[[], list[str]]:
    path = tmp_path / "diary"
    return lambda: path.read_text().splitlines() if path.exists() else []


@pytest.fixture
async def shop(instance: Instance) -> Instance:
    await instance.run(ingress_apps.shop, name="shop", route_prefix="/shop")
    return instance


async def test_routes_models_uploads_routers_mounts_and_files_work_under_a_prefix(shop: Instance) -> None:
    http = shop.http
    assert (await http.get("/shop/items/special")).json() == "special"  # declared first, so it wins
    assert (await http.get("/shop/items/sock")).json() == {"name": "sock", "price": 4.0}
    added = await http.post("/shop/items", json={"name": "hat"})
    assert (added.status_code, added.json()) == (201, {"name": "hat", "price": 1.0})  # without the secret
    assert (await http.post("/shop/items", json={})).status_code == 422
    uploaded = await http.post("/shop/upload", files={"file": ("a.bin", b"x" * 200_000)})
    assert uploaded.json() == {"name": "a.bin", "size": 200_000}
    assert (await http.get("/shop/extras/gift?to=ann")).json() == "gift for ann of Shop"
    assert (await http.get("/shop/admin/stock")).json() == "stock of Shop"
    assert "SoldOut" in (await http.get("/shop/static/ingress_apps.py")).text
    assert (await http.get("/shop/static/../conftest.py")).json() == "no conftest.py"
    assert (await http.get("/shop/version")).json() == "7"
    assert (await http.get("/shop/kind")).json() == "Shop"
    assert (await http.get("/shop/where/ever")).json() == "no where/ever"


async def test_the_documentation_works_under_a_prefix_and_the_status_says_where_it_is(shop: Instance) -> None:
    page = await shop.http.get("/shop/docs")
    assert page.status_code == 200 and "/shop/openapi.json" in page.text
    document = (await shop.http.get("/shop/openapi.json")).json()
    assert [p["name"] for p in document["paths"]["/extras/gift"]["get"]["parameters"]] == ["to"]
    assert document["servers"] == [{"url": "/shop"}]
    details = (await shop.admin.get("/api/serve/applications/")).json()
    assert details["applications"]["shop"]["docs_path"] == "/docs"


async def test_every_kind_of_middleware_and_exception_handler_has_its_turn(shop: Instance) -> None:
    http = shop.http
    answer = await http.get("/shop/large", headers={"origin": "https://shop.example"})
    assert answer.json() == "x" * 5000
    assert [answer.headers[h] for h in ("x-pure", "x-late", "content-encoding")] == ["yes", "yes", "gzip"]
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    asking = {"origin": "https://shop.example", "access-control-request-method": "GET"}
    assert (await http.request("OPTIONS", "/shop/large", headers=asking)).status_code == 200
    gone = await http.get("/shop/sold-out")
    assert (gone.status_code, gone.json()) == (410, {"sold_out": "socks"})
    broken = await http.get("/shop/broken")
    assert (broken.status_code, broken.text) == (500, "Internal Server Error")


async def test_dependencies_may_use_handles_state_and_what_must_be_closed(
    shop: Instance, diary: Callable[[], list[str]]
) -> None:
    answer = await shop.http.get("/shop/cost/hat")
    assert answer.json() == "3.0 EUR session True"
    await until(lambda: "session closed" in diary())
    assert [line for line in diary() if "session" in line or line == "handled"] == [
        "session opened", "handled", "session closed",
    ]  # fmt: skip


async def test_a_full_deployment_below_is_answered_with_its_status(
    shop: Instance, tmp_path: Path, diary: Callable[[], list[str]]
) -> None:
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await shop.http.get("/shop/held"))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await until(lambda: "entered" in diary(), "the first is inside")
        for _ in range(4):
            group.start_soon(ask)
        await until(lambda: answers, "those that may not wait are refused")
        (tmp_path / "gate").touch()
    assert {a.status_code for a in answers} == {200, 503}
    assert all("max_queued_requests=1" in a.text for a in answers if a.status_code == 503)
    mounted = await shop.http.get("/shop/admin/full")
    assert (mounted.status_code, mounted.headers["retry-after"]) == (429, "3")


async def test_the_lifespan_runs_once_and_ends_before_the_destructor(
    shop: Instance, diary: Callable[[], list[str]]
) -> None:
    for _ in range(3):
        await shop.http.get("/shop/items/special")
    assert diary() == ["started up"]
    await shop.delete("shop")
    assert diary() == ["started up", "shut down", "destroyed"]


async def test_a_background_task_ends_before_its_replica_does(
    shop: Instance, tmp_path: Path, diary: Callable[[], list[str]]
) -> None:
    assert (await shop.http.post("/shop/order")).json() == "ordered"
    await until(lambda: "bill begun" in diary())
    async with anyio.create_task_group() as group:
        group.start_soon(shop.delete, "shop")
        await until(lambda: "/shop" not in shop_routes(shop), "the application is being deleted")
        (tmp_path / "gate").touch()
    assert diary() == ["started up", "bill begun", "bill sent", "shut down", "destroyed"]


def shop_routes(instance: Instance) -> dict[str, Any]:
    return dict(json.loads(httpx.get(f"{instance.http_url}/-/routes").text or "{}"))


async def test_websockets_reach_the_instance_and_close_with_its_codes(shop: Instance) -> None:
    url = shop.http_url.replace("http", "ws") + "/shop/chat"
    async with websockets.connect(f"{url}/lounge") as socket:
        await socket.send("hi")
        assert await socket.recv() == "lounge Shop hi"
        await socket.send("bye")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "see you")
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"{url}/private")
    assert refused.value.response.status_code == 403


async def test_methods_are_called_by_handle_with_and_without_a_route(shop: Instance) -> None:
    handle = await anyio.to_thread.run_sync(lambda: serve.get_app_handle("shop"))
    assert await handle.count.remote(1) == 2
    assert (await handle.item.remote("hat")).price == 3.0
    with pytest.raises(TypeError, match=r"'Shop' answers HTTP by its ASGI app.*handle\.method\.remote"):
        await handle.remote("hat")


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_of_application_answers(instance: Instance, form: str) -> None:
    await instance.run(FORMS[form], name=form, route_prefix=f"/{form}")
    answer = await instance.http.get(f"/{form}/")
    assert (answer.status_code, answer.text) == (200, SAYS[form])
    if form == "instance":
        full = await instance.http.get(f"/{form}/full")
        assert (full.status_code, full.headers["retry-after"]) == (429, "3")


async def test_a_builder_runs_once_in_each_replica(
    instance: Instance, diary: Callable[[], list[str]]
) -> None:
    builder = FORMS["builder"]._bound_deployment
    await instance.run(builder.options(num_replicas=2).bind())
    for _ in range(4):
        assert (await instance.http.get("/")).text == "builder"
    assert diary() == ["built", "built"]


async def test_two_classes_share_one_application_and_others_extend_them(instance: Instance) -> None:
    apps = {
        "first": ingress_apps.First.bind(),
        "second": ingress_apps.Second.bind(),
        "third": ingress_apps.Third.bind("a word"),
    }
    for name, app in apps.items():
        await instance.run(app, name=name, route_prefix=f"/{name}")
    found = {
        name: [(await instance.http.get(f"/{name}/{path}")).status_code for path in (*apps, "shared")]
        for name in apps
    }
    assert found == {
        "first": [200, 404, 404, 200],
        "second": [404, 200, 404, 200],
        "third": [200, 404, 200, 200],
    }
    assert (await instance.http.get("/third/third")).json() == "a word"
    assert (await instance.http.get("/third/name")).json() == "Third"
    with pytest.raises(RuntimeError, match="'Forgetful' extends a class with @serve.ingress and has no app"):
        await instance.run(
            ingress_apps.Forgetful.options(max_constructor_retry_count=1).bind(), name="f", route_prefix="/f"
        )


async def test_a_lifespan_that_fails_fails_the_deployment_with_the_users_error(instance: Instance) -> None:
    with pytest.raises(RuntimeError) as failed:
        await instance.run(ingress_apps.NeverStarts.bind(), name="never", route_prefix="/never")
    said = str(failed.value)
    assert "ASGI lifespan startup failed: ConnectionError: the database is not there" in said
    assert "ingress_apps.py:" in said.splitlines()[-1]
    status = await instance.status()
    assert status.applications["never"].status is ApplicationStatus.DEPLOY_FAILED
