"""The access log of an instance: a line for each request of its doors, where its options say."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.instances import Instances, until
from tests.proxy.test_access_log import TEXT

CODE = """
import serve_lite as serve


@serve.deployment
def hello():
    return "hello"


app = hello.bind()
"""


async def test_an_instance_writes_a_line_for_each_request_of_its_doors(
    instances: Instances, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    instance = await instances.start(instances.options(access_log=str(path)))
    (tmp_path / "greeting.py").write_text(CODE)
    await instance.deploy("greeting:app", name="app", route_prefix="/app", folder=tmp_path)
    for target, request_id in (("/app?q=secret", "one"), ("/nowhere", "two")):
        await instance.http.get(target, headers={"x-request-id": request_id})
    text = await until(lambda: path.exists() and path.read_text().count("\n") == 2 and path.read_text())
    assert [TEXT.fullmatch(line)[4] for line in text.splitlines()] == ["app", "-"]  # type: ignore[index]
    assert "secret" not in text
    os.rename(path, tmp_path / "moved")
    await instance.http.get("/app", headers={"x-request-id": "three"})
    await instances.stop(instance)
    assert " three app GET /app 200 " in path.read_text(), "the last lines are written at the end"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_instance_may_write_them_to_its_output_and_does_not_unless_told(
    instances: Instances,
) -> None:
    for chosen in (None, "stdout"):
        instance = await instances.start(
            instances.options(access_log=chosen, logging_config={"encoding": "JSON"})
        )
        await instance.http.get("/nowhere", headers={"x-request-id": "here"})
        await instances.stop(instance)
        lines = [line for line in instance.log("daemon.log").splitlines() if '"request_id": "here"' in line]
        assert [json.loads(line)["status"] for line in lines] == ([] if chosen is None else [404])
