"""`serve token`, and who a running instance lets in by it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import httpx
import pytest

from serve_lite.daemon.home import paths
from serve_lite.daemon.token import Tokens, prepare_token, read_token, write_token
from serve_lite.exceptions import InstanceError
from tests.cli.commands import Cli
from tests.instances import DEADLINE_S, until

GIVEN = "a-token-of-my-own-choice"
HEALTH = "/-/healthz"


async def status(rest: str, token: str) -> int:
    """Return how an instance answers whoever bears this token."""
    async with httpx.AsyncClient(base_url=rest, timeout=DEADLINE_S) as client:
        return (await client.get(HEALTH, headers={"authorization": f"Bearer {token}"})).status_code


async def test_every_instance_has_a_token_for_its_user_alone(cli: Cli) -> None:
    rest = await cli.start()
    shown = json.loads((await cli("token", "--json")).out)
    assert stat.S_IMODE(os.stat(shown["file"]).st_mode) == 0o600
    assert len(shown["token"]) >= 32
    assert (await cli("token", "show")).out == shown["token"] + "\n"
    assert await status(rest, shown["token"]) == 200
    assert await status(rest, "x" * 64) == 401


async def test_a_new_token_counts_at_once_and_the_old_one_no_more(cli: Cli) -> None:
    rest = await cli.start()
    old = (await cli("token")).out.strip()
    new = (await cli("token", "rotate")).out.strip()
    assert new != old
    assert (await status(rest, new), await status(rest, old)) == (200, 401)
    assert (await cli("status")).code == 0  # which finds the new one by itself


async def test_with_grace_the_old_token_counts_on_for_that_long(cli: Cli) -> None:
    rest = await cli.start()
    old = (await cli("token")).out.strip()
    new = (await cli("token", "rotate", "--grace", "3600")).out.strip()
    assert (await status(rest, new), await status(rest, old)) == (200, 200)
    where = paths(cli.home)
    previous = Path(where.previous_token)
    assert stat.S_IMODE(previous.stat().st_mode) == 0o600
    assert old not in previous.read_text()
    newest = (await cli("token", "rotate", "--grace", "0.01")).out.strip()
    tokens = Tokens(where)
    await until(lambda: not tokens.accept(new.encode()), "the grace of the token before is over")
    assert [await status(rest, token) for token in (newest, new, old)] == [200, 401, 401]


async def test_an_instance_takes_the_token_that_the_environment_names_and_keeps_it_from_user_code(
    cli: Cli,
) -> None:
    cli.environment["SERVE_LITE_TOKEN"] = GIVEN
    rest = await cli.start()
    assert await status(rest, GIVEN) == 200
    cli.write(
        "environment_app.py",
        "import os\nfrom serve_lite import deployment\n"
        "@deployment\nclass Environment:\n    def __call__(self): return dict(os.environ)\napp = Environment.bind()\n",
    )
    done = await cli("deploy", "environment_app:app", "--wait")
    assert done.code == 0, done.err
    http = json.loads((await cli("config", "--effective", "--json")).out)["options"]
    port = next(option["value"] for option in http if option["name"] == "http_options.port")
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        environment = (await client.get(f"http://127.0.0.1:{port}/")).json()
    assert "PATH" in environment
    assert GIVEN not in environment.values()


async def test_a_url_is_asked_with_the_token_of_the_environment(cli: Cli) -> None:
    rest = await cli.start()
    token = (await cli("token")).out.strip()
    assert (await cli("status", "-a", rest, SERVE_LITE_TOKEN=token)).code == 0
    refused = await cli("status", "-a", rest, SERVE_LITE_TOKEN=token[:-1])
    assert refused.code == 1
    assert "serve token show" in refused.err
    assert (
        await cli("status", SERVE_LITE_TOKEN=token[:-1])
    ).code == 0  # the state directory has the right one


async def test_a_token_that_others_can_read_is_refused_by_both_sides_until_it_is_rotated(cli: Cli) -> None:
    rest = await cli.start()
    token = (await cli("token")).out.strip()
    os.chmod(paths(cli.home).token, 0o644)
    for command in ("token", "status"):
        done = await cli(command)
        assert done.code == 1
        assert "0644" in done.err
        assert "serve token rotate" in done.err
    assert await status(rest, token) == 401
    new = (await cli("token", "rotate")).out.strip()
    assert await status(rest, new) == 200


async def test_without_an_instance_there_is_none_until_one_is_made(cli: Cli) -> None:
    missing = await cli("token")
    assert (missing.code, missing.out) == (1, "")
    assert "serve token rotate" in missing.err
    made = await cli("token", "rotate", "-a", cli.home)
    rest = await cli.start()
    assert await status(rest, made.out.strip()) == 200
    wrong = await cli("token", "show", "--grace", "3")
    assert wrong.code == 2


# --- the files ---


@pytest.mark.parametrize(
    "text", ["", "short", "has a space in its middle", "ümläut-of-more-than-sixteen", "a\nb" * 9]
)
def test_what_is_no_token_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    where = paths(str(tmp_path))
    write_token(where, "0" * 64)
    Path(where.token).write_text(text)
    with pytest.raises(InstanceError, match="holds no token") as told:
        read_token(where.token)
    assert not text or text not in str(told.value)


def test_a_link_or_another_kind_of_file_holds_no_token(tmp_path: Path) -> None:
    where = paths(str(tmp_path / "home"))
    where.prepare()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch(mode=0o600)
    elsewhere.write_text("0" * 64)
    os.symlink(elsewhere, where.token)
    with pytest.raises(InstanceError):
        read_token(where.token)
    write_token(where, "1" * 64)  # takes the link's place and leaves alone where it leads
    assert elsewhere.read_text() == "0" * 64
    os.unlink(where.token)
    os.mkfifo(where.token, 0o600)
    with pytest.raises(InstanceError, match="not a file of yours"):
        read_token(where.token)


def test_a_given_token_takes_the_place_of_one_that_cannot_be_trusted(tmp_path: Path) -> None:
    where = paths(str(tmp_path))
    write_token(where, "0" * 64)
    prepare_token(where)
    assert read_token(where.token) == "0" * 64
    os.chmod(where.token, 0o640)
    with pytest.raises(InstanceError, match="0640"):
        prepare_token(where)
    prepare_token(where, f" {GIVEN}\n")
    assert read_token(where.token) == GIVEN
    assert [name for name in os.listdir(tmp_path) if "~" in name] == []


def test_a_token_that_was_removed_opens_nothing(tmp_path: Path) -> None:
    where = paths(str(tmp_path))
    write_token(where, GIVEN)
    tokens = Tokens(where)
    assert tokens.accept(GIVEN.encode())
    os.unlink(where.token)
    assert not tokens.accept(GIVEN.encode())
    assert not tokens.accept(b"")
