"""`serve keys`, the real program, and the keys at a real instance's door."""

from __future__ import annotations

import json
import os
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx
import pytest

from serve_lite.engines.local import find_instance
from serve_lite_cli.keys import _moment
from tests.cli.commands import Cli
from tests.cli.test_operations import address_of
from tests.instances import DEADLINE_S

APPS = """\
applications:
- {name: closed, route_prefix: /closed, import_path: shop:app, require_api_key: true}
- {name: open, route_prefix: /open, import_path: shop:app, client_rate_limit: 1/h burst 2}
"""


async def status_of(url: str, key: str = "") -> int:
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        answer = await client.get(url, headers={"authorization": f"Bearer {key}"} if key else {})
        return answer.status_code


async def until_status(url: str, key: str, status: int) -> None:
    with anyio.fail_after(DEADLINE_S):
        while await status_of(url, key) != status:
            await anyio.sleep(0.05)


async def add(cli: Cli, *words: str) -> str:
    """Return a new key."""
    done = await cli("keys", "add", *words)
    assert done.code == 0, done
    assert re.fullmatch(r"sl_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", done.out), done
    return done.out.strip()


async def test_a_key_is_made_used_and_removed_on_a_running_instance(cli: Cli) -> None:
    await cli.start()
    early = await cli("keys", "add", "early")
    assert "no application asks for API keys yet" in early.err
    done = await cli("deploy", cli.write("serve.yaml", APPS), "--wait")
    assert done.code == 0, done
    url = await address_of(cli)
    assert await status_of(f"{url}/closed") == 401
    assert await status_of(f"{url}/closed", early.out.strip()) == 200

    alice, bob = await add(cli, "alice"), await add(cli, "bob", "--app", "other")
    assert [await status_of(f"{url}/closed", key) for key in (alice, bob)] == [200, 403]
    done = await cli("keys", "remove", "alice")
    assert (done.code, "Removed the API key 'alice'" in done.out) == (0, True)
    assert await status_of(f"{url}/closed", alice) == 401, "at once"
    assert [await status_of(f"{url}/open") for _ in range(3)] == [200, 200, 429]
    assert await status_of(f"{url}/-/healthz") == 200

    home = Path(cli.home)
    assert (home / "api-keys").stat().st_mode & 0o777 == 0o600
    for file in home.rglob("*"):
        if file.is_file():
            kept = file.read_bytes()
            assert alice.encode() not in kept and bob.encode() not in kept, f"a key is in {file}"


async def test_a_file_that_is_changed_by_hand_counts_and_a_broken_one_is_told(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", APPS), "--wait")
    url = f"{await address_of(cli)}/closed"
    key = await add(cli, "alice")
    file = Path(cli.home, "api-keys")
    line = file.read_text()
    file.write_text("")
    await until_status(url, key, 401)
    file.write_text(line)
    await until_status(url, key, 200)
    file.write_text(line + "nonsense\n")
    log = Path(cli.home, "logs", "daemon.log")
    with anyio.fail_after(DEADLINE_S):
        while "api-keys:2: not the line of an API key" not in log.read_text():
            await anyio.sleep(0.05)
    assert await status_of(url, key) == 200
    refused = await cli("keys", "add", "bob")
    assert (refused.code, refused.out) == (1, "")
    assert "api-keys:2: not the line of an API key" in refused.err
    file.write_text("")
    os.kill(await daemon_pid(cli), signal.SIGHUP)
    await until_status(url, key, 401)


async def daemon_pid(cli: Cli) -> int:
    info = await anyio.to_thread.run_sync(find_instance, cli.home)
    assert info is not None
    return info.pid


async def test_a_daemon_that_takes_over_after_a_crash_knows_the_keys(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", APPS), "--wait")
    url = f"{await address_of(cli)}/closed"
    key = await add(cli, "alice")
    pid = await daemon_pid(cli)
    os.kill(pid, signal.SIGKILL)
    assert await status_of(url, key) == 200
    assert await status_of(url) == 401
    assert await daemon_pid(cli) != pid


async def test_keys_are_listed_with_all_but_what_is_secret(cli: Cli) -> None:
    assert "There are no API keys in" in (await cli("keys", "list")).out
    shown = await add(cli, "alice", "--app", "a", "--app", "b", "--route", "/x", "--rate", "10/s burst 20")
    await add(cli, "bob", "--expires", "2999-01-01")
    done = await cli("keys", "list")
    rows = [re.split(r" {2,}", line) for line in done.out.splitlines()]
    assert rows[0] == ["NAME", "ID", "APPS", "ROUTES", "RATE", "EXPIRES"]
    assert rows[1] == ["alice", shown[3:15], "a, b", "/x", "10/s burst 20", "never"]
    assert rows[2][2:] == ["all", "all", "-", "2999-01-01T00:00:00+00:00"]
    assert shown not in done.out and "sha256" not in done.out


async def test_programs_get_json(cli: Cli) -> None:
    made = json.loads((await cli("keys", "add", "alice", "--app", "a", "--json")).out)
    file = str(Path(cli.home, "api-keys"))
    assert (made["name"], made["file"], made["key"][:3]) == ("alice", file, "sl_")
    (listed,) = json.loads((await cli("keys", "list", "--json")).out)
    assert set(listed) == {"name", "id", "apps", "routes", "rate", "expires", "created"}
    assert (listed["name"], listed["apps"], listed["routes"]) == ("alice", ["a"], [])
    assert json.loads((await cli("keys", "remove", "alice", "--json")).out) == {"name": "alice", "file": file}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add",), 2, "needs a NAME"),
        (("list", "alice"), 2, "takes no NAME"),
        (("remove", "alice", "--app", "a"), 2, "--app is for `serve keys add`"),
        (("give", "alice"), 2, "give"),
        (("remove", "alice"), 1, "no API key 'alice'"),
        (("add", "a b"), 1, "the name is 'a b'"),
        (("add", "alice", "--rate", "often"), 1, "'often' is not a rate"),
        (("add", "alice", "--route", "x"), 1, "the route is 'x'"),
        (("add", "alice", "--expires", "soon"), 1, "--expires is 'soon'"),
        (("add", "alice", "--expires", "2001-01-01"), 1, "which is over"),
        (("list", "-a", "http://127.0.0.1:1"), 1, "is a URL"),
    ],
)
async def test_wrong_uses_are_named(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    done = await cli("keys", *words)
    assert (done.code, said in re.sub(r"\s+", " ", done.err)) == (code, True), done


def test_when_a_key_ends_may_be_said_in_several_ways() -> None:
    now = datetime.now(UTC)
    for text, delta in (
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
    ):
        assert abs(datetime.fromisoformat(_moment(text)) - now - delta) < timedelta(minutes=5)
    assert _moment("2999-01-31") == "2999-01-31T00:00:00+00:00"
    assert _moment("2999-01-31T12:00:00+02:00") == "2999-01-31T12:00:00+02:00"


async def test_a_settings_file_names_the_file_of_keys(cli: Cli) -> None:
    os.makedirs(cli.home, mode=0o700, exist_ok=True)
    Path(cli.home, "settings.yaml").write_text(
        "http_options: {api_keys_file: private/keys, require_api_key: true}\n"
    )
    key = await add(cli, "alice")
    file = Path(cli.home, "private", "keys")
    assert '"alice"' in file.read_text()
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", "import_path: shop:app\n"), "--wait")
    url = await address_of(cli)
    assert [await status_of(url), await status_of(url, key)] == [401, 200]
    refused = await cli("keys", "list", "--file", str(cli.folder / "other"))
    assert (refused.code, f"reads its API keys from {file}" in refused.err) == (1, True)


async def test_a_file_of_keys_may_be_named_while_no_instance_is_up(cli: Cli) -> None:
    file = cli.folder / "keys"
    await add(cli, "alice", "--file", str(file))
    assert '"alice"' in file.read_text()
    assert "alice" in (await cli("keys", "list", "--file", str(file))).out
