"""`serve security-check`: passes on an instance as it is, and finds what is wrong with one that is not."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serve_lite.daemon.home import paths
from serve_lite_cli.safety import CHECKS, LOCAL_CHECKS, _secrets
from tests.cli.commands import Cli

APP = """
from serve_lite import deployment

@deployment
class Quiet:
    def __call__(self):
        raise RuntimeError("an application was sent a request")

app = Quiet.bind()
"""

CONFIG = """
http_options: {port: 0}
applications:
  - name: quiet
    import_path: quiet:app
    runtime_env: {env_vars: {PASSWORD: hunter2hunter2}}
"""


def result(out: str) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(out)["checks"]}


async def test_an_instance_as_it_is_passes_and_nothing_has_changed(cli: Cli) -> None:
    cli.write("quiet.py", APP)
    rest = await cli.start()
    await cli("deploy", cli.write("serve.yaml", CONFIG), "--wait")
    before = (await cli("status", "--json")).out
    done = await cli("security-check", "--json")
    assert done.code == 0, done.out
    assert json.loads(done.out)["passed"] is True
    assert set(result(done.out)) == {*CHECKS, *LOCAL_CHECKS}
    assert "hunter2" not in done.out
    assert (await cli("status", "--json")).out == before
    by_url = await cli("security-check", "-a", rest, "--json")
    assert by_url.code == 0, by_url.out
    assert set(result(by_url.out)) == set(CHECKS)
    logs = "".join(file.read_text() for file in Path(cli.home, "logs").iterdir())
    assert "an application was sent a request" not in logs


async def test_files_that_others_can_use_are_found(cli: Cli) -> None:
    await cli.start()
    where = paths(cli.home)
    os.chmod(where.control, 0o666)
    os.chmod(where.db, 0o644)
    os.chmod(where.logs, 0o755)
    done = await cli("security-check")
    assert done.code == 1
    assert "fail" in done.out
    for path in (where.control, where.db, where.logs):
        assert path in done.out


class Careless(BaseHTTPRequestHandler):
    """Answers everybody, tells everything, and takes what it gets for a request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        env = {
            "runtime_env": {"env_vars": {"KEY": "s3cr3t"}, "working_dir": "https://me:pa55word@host/app.zip"}
        }
        options = [
            {"name": name, "value": value}
            for name, value in (
                ("admin_host", "127.0.0.1"),
                ("http_options.host", None),
                ("proxy_location", ""),
            )
        ]
        content = json.dumps({"options": options, "applications": {"a": env}, "path": "root:x"}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    do_POST = do_PROPFIND = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def careless() -> Iterator[str]:
    """The URL of a control plane without any care."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_control_plane_without_care_fails_every_check_that_its_listener_is_not_excused_from(
    cli: Cli, careless: str
) -> None:
    done = await cli("security-check", "-a", careless, "--json")
    assert done.code == 1, done.err
    failed = {name for name, check in result(done.out).items() if not check["passed"]}
    assert failed == set(CHECKS) - {"listeners"}
    assert "s3cr3t" not in done.out and "pa55word" not in done.out  # it says where one is, and not what


async def test_without_an_instance_it_is_one_error(cli: Cli) -> None:
    done = await cli("security-check")
    assert (done.code, done.out) == (1, "")
    assert "serve start" in done.err


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ({"env_vars": {"A": "<redacted>"}}, []),
        ({"env_vars": {"A": "b"}}, ["env_vars.A"]),
        ([{"a": {"ssl_keyfile_password": "x"}}], ["[0].a.ssl_keyfile_password"]),
        ({"ssl_keyfile_password": None}, []),
        ({"u": "https://a:b@host/x"}, ["u"]),
        ({"u": "git+ssh://token@host/x"}, ["u"]),
        ({"u": "https://<redacted>@host/x"}, []),
        ({"u": "mail me@host, see https://host/@x"}, []),
    ],
)
def test_a_secret_is_known_by_its_place_or_its_form(value: Any, places: list[str]) -> None:
    assert [place for place, _ in _secrets(value, "")] == places
