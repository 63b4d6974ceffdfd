"""Datasette as ingress, below a prefix that it is told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.conftest import deploy
from tests.frameworks.menu import Framework
from tests.instances import Instance

pytestmark = pytest.mark.anyio


async def test_datasette_shows_pages_json_and_its_static_files(instance: Instance, tmp_path: Path) -> None:
    served = await deploy(instance, Framework("datasette", "datasette_app"), tmp_path / "kitchen")
    home = await served.http.get("/datasette/")
    assert home.status_code == 200 and 'href="/datasette/dishes"' in home.text
    rows = await served.http.get("/datasette/dishes/dishes.json?_shape=array")
    assert rows.json() == [{"id": 1, "name": "soup"}]
    asked = await served.http.get("/datasette/dishes.json", params={"sql": "select 6 * 7 as answer"})
    assert asked.json()["rows"] == [[42]]
    assert (await served.http.get("/datasette/-/static/app.css")).headers["content-type"] == "text/css"
    missing = await served.http.get("/datasette/dishes/forks")
    assert missing.status_code == 404 and "Table not found" in missing.text
    moved = await served.http.get("/datasette/-/databases/")
    assert moved.status_code == 302 and moved.headers["location"] == "/datasette/-/databases"
    await instance.delete("datasette")
