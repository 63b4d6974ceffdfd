"""Packages and archives from the command line: paths in a file, and the options of `serve run`."""

from __future__ import annotations

import json
import re

from tests.cli.commands import Cli, text_of
from tests.environments.sources import make_wheel, make_zip

ACME = """
import serve_lite as serve


@serve.deployment
class Acme:
    async def __call__(self, request):
        import acme

        return acme.version


app = Acme.bind()
"""


async def test_everything_local_is_meant_relative_to_the_file(cli: Cli) -> None:
    make_wheel(cli.folder / "wheels", "acme", "2.0")
    make_zip(cli.folder / "code.zip", {"code-main/zipped.py": ACME})
    (cli.folder / "conf").mkdir()
    cli.write("conf/requirements.txt", "--no-index\n--find-links ../wheels\nacme\n")
    started = await cli("start", "--http-port", "0")
    name = cli.write(
        "conf/app.yaml",
        "applications:\n- import_path: zipped:app\n  runtime_env: {working_dir: ../code.zip}\n"
        "  deployments:\n  - name: Acme\n    ray_actor_options:\n      runtime_env: {uv: requirements.txt}\n",
    )
    done = await cli("deploy", "--wait", name)
    assert done.code == 0, done
    url = re.search(r"HTTP +(\S+)", started.out)
    assert url is not None
    assert await text_of(url[1]) == "2.0"
    config = (await cli("config")).out
    assert f"working_dir: {cli.folder}/code.zip" in config
    assert f"uv: {cli.folder}/conf/requirements.txt" in config

    cli.write("conf/requirements.txt", "--no-index\n--find-links ../wheels\nacme==7.0\n")
    failed = await cli("deploy", "--wait", name)
    assert failed.code == 1
    assert "RuntimeEnvError: uv could not install the packages" in failed.err
    assert "acme==7.0" in failed.err
    assert await text_of(url[1]) == "2.0"


async def test_a_mistake_is_told_with_its_line(cli: Cli) -> None:
    name = cli.write(
        "app.yaml",
        "applications:\n- import_path: shop:app\n  deployments:\n  - name: Hello\n    ray_actor_options:\n"
        "      runtime_env:\n        pip: [numpy, ./none.whl]\n",
    )
    done = await cli("validate", name)
    assert done.code == 1
    assert "app.yaml:7:22: " in done.err
    assert "there is no such file" in done.err


async def test_run_takes_an_archive_and_packages(cli: Cli) -> None:
    wheel = make_wheel(cli.folder, "acme", "1.0")
    make_zip(cli.folder / "code.zip", {"zipped.py": ACME})
    env = json.dumps({"uv": [f"./{wheel.name}"]})
    words = ("zipped:app", "--working-dir", "code.zip", "--runtime-env-json", env, "--http-port", "0")
    async with await cli.begin("run", *words, "--admin-port", "0") as running:
        assert await text_of(await running.ready_url()) == "1.0"
