"""`serve run --reload`: the real program, real files that are edited, and requests all the while."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from tests.cli.commands import Cli, Running, is_refused, text_of
from tests.instances import DEADLINE_S, until

FRONT = """
import os
import serve_lite as serve

@serve.deployment
class Front:
    def __init__(self, back):
        self.back = back

    async def __call__(self, request):
        return f"front {os.getpid()} says one, " + await self.back.say.remote()
"""
BACK = """
import os
import serve_lite as serve

@serve.deployment(num_replicas=2)
class Back:
    def say(self):
        return f"back {os.getpid()} says one"
"""
MAIN = """
from front import Front
from back import Back

app = Front.bind(Back.bind())


def build(args):
    return app
"""


@pytest.fixture
def code(cli: Cli) -> Cli:
    """Two deployments in modules of their own, and a third module that binds them."""
    for name, text in (("front.py", FRONT), ("back.py", BACK), ("main.py", MAIN)):
        cli.write(name, text)
    return cli


def edit(cli: Cli, name: str, old: str, new: str) -> None:
    """Replace a part of a file."""
    path = cli.folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def said_after(running: Running, pattern: str) -> str:
    """Return what was printed up to a match of `pattern` in what has not been looked at yet; that is then done with."""
    match = await running.until(pattern)
    before, running.said = running.said[: match.end()], running.said[match.end() :]
    return before


async def pids(url: str, *, back: int = 2) -> tuple[set[str], set[str]]:
    """Return the processes that answer: those of Front and the `back` ones of Back."""
    fronts: set[str] = set()
    backs: set[str] = set()
    with anyio.fail_after(DEADLINE_S):
        while len(backs) < back:
            words = (await text_of(url)).split()
            fronts.add(words[1])
            backs.add(words[5])
    return fronts, backs


@asynccontextmanager
async def requests_all_the_while(url: str) -> AsyncIterator[list[str]]:
    """Ask again and again; fails if one request does. Gives the answers."""
    answers: list[str] = []
    is_over = False

    async def ask() -> None:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
            while not is_over:
                answer = await client.get(url)
                assert answer.status_code == 200, answer.text
                answers.append(answer.text)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
        yield answers
        is_over = True
    assert answers


@asynccontextmanager
async def reloading(cli: Cli, target: str, *words: str) -> AsyncIterator[tuple[Running, str]]:
    """Run it; give the command, and where the application is. Ends it as Ctrl-C does."""
    port = () if target.endswith(".yaml") else ("--port", "0")
    async with await cli.begin("run", "-r", target, *port, *words) as running:
        url = await running.ready_url()
        running.said = ""
        yield running, url
        running.send(signal.SIGINT)
        assert await running.ended() == 0
        assert "shutting down" in running.said
        assert await is_refused(url)


async def test_only_the_deployment_whose_file_changed_is_replaced_and_no_request_fails(code: Cli) -> None:
    async with reloading(code, "main:app") as (running, url):
        fronts, backs = await pids(url)
        async with requests_all_the_while(url) as answers:
            edit(code, "back.py", "says one", "says two")
            said = await said_after(running, r"Application 'default' is up to date: (.*)\.\n")
            assert "Detected file change in path back.py. Redeploying app." in said
            assert said.endswith("replaced Back; left alone Front.\n")
            await until(lambda: answers[-1].endswith("says two"), "the new version answers")
        new_fronts, new_backs = await pids(url)
        assert new_fronts == fronts
        assert not new_backs & backs

        edit(code, "front.py", "says one", "says two")
        assert (await said_after(running, r"up to date: (.*)\.\n")).endswith(
            "replaced Front; left alone Back.\n"
        )
        newest_fronts, newest_backs = await pids(url)
        assert newest_backs == new_backs
        assert not newest_fronts & new_fronts


async def test_two_edits_within_a_second_that_leave_the_length_as_it_is_both_take_effect(code: Cli) -> None:
    """Python's compiled files are dated to the second, and would hide the second one."""
    async with reloading(code, "main:app") as (running, url):
        stamp = (code.folder / "back.py").stat().st_mtime
        for old, new in (("one", "two"), ("two", "ten"), ("ten", "six")):
            edit(code, "back.py", f"says {old}", f"says {new}")
            os.utime(code.folder / "back.py", (stamp, stamp))
            await said_after(running, "replaced Back; left alone Front")
            assert (await text_of(url)).endswith(f"says {new}")


async def test_mistakes_are_told_with_their_place_and_what_runs_goes_on_until_they_are_mended(
    code: Cli,
) -> None:
    async with reloading(code, "main:app") as (running, url):
        before = await pids(url)
        mistakes = {
            "def (\n": (r"SyntaxError.*back\.py, line 9", "back.py:9"),
            "import no_such_module\n": (r"ModuleNotFoundError: .*'no_such_module'", "back.py:9"),
            "raise LookupError('not here')\n": (r"LookupError: not here", "back.py:9"),
        }
        for mistake, (error, place) in mistakes.items():
            (code.folder / "back.py").write_text(BACK.rstrip() + "\n" + mistake)
            said = await said_after(running, "What ran before goes on; waiting for the next change")
            assert place in said
            assert re.search(error, said), said
            assert "says one" in await text_of(url)
        (code.folder / "back.py").write_text(BACK)
        assert (await said_after(running, r"up to date: (.*)\.\n")).endswith(": left alone Back, Front.\n")
        assert await pids(url) == before


async def test_a_constructor_that_raises_leaves_the_old_version_and_can_be_mended(code: Cli) -> None:
    async with reloading(code, "main:app") as (running, url):
        fronts, _ = await pids(url)
        few = BACK.replace("num_replicas=2", "num_replicas=2, max_constructor_retry_count=1")
        broken = few + "    def __init__(self):\n        raise ValueError('no model')\n"
        (code.folder / "back.py").write_text(broken)
        assert "ValueError: no model" in await said_after(running, "What ran before goes on")
        assert "says one" in await text_of(url)
        (code.folder / "back.py").write_text(BACK.replace("one", "two"))
        assert (await said_after(running, r"up to date: (.*)\.\n")).endswith(
            "replaced Back; left alone Front.\n"
        )
        assert (await text_of(url)).endswith("says two")
        assert (await pids(url))[0] == fronts


async def test_a_constructor_that_never_returns_can_be_mended(code: Cli) -> None:
    async with reloading(code, "main:app") as (running, url):
        stuck = BACK + (
            "    def __init__(self):\n        import pathlib, time\n        pathlib.Path('entered').touch()\n"
            "        while True: time.sleep(0.01)\n"
        )
        (code.folder / "back.py").write_text(stuck)
        await until((code.folder / "entered").exists, "the constructor is entered")
        (code.folder / "back.py").write_text(BACK.replace("one", "two"))
        await said_after(running, "replaced Back; left alone Front")
        assert (await text_of(url)).endswith("says two")


async def test_it_waits_for_a_first_version_that_works(code: Cli) -> None:
    code.write("back.py", "def (\n")
    async with await code.begin("run", "main:app", "--reload", "--port", "0") as running:
        await running.until("Nothing runs yet; waiting for the next change")
        assert "back.py:1" in running.said
        code.write("back.py", BACK)
        assert "says one" in await text_of(await running.ready_url())
        running.send(signal.SIGINT)
        assert await running.ended() == 0


async def test_options_changed_in_code_take_effect_without_a_restart_where_they_can(code: Cli) -> None:
    """In the module that binds, which no replica needs."""
    with_config = BACK + "    def reconfigure(self, config): ...\n"
    code.write("back.py", with_config)
    code.write("main.py", MAIN.replace("Back.bind", "Back.options(max_queued_requests=-1).bind"))
    async with reloading(code, "main:app") as (running, url):
        before = await pids(url)
        edit(code, "main.py", "max_queued_requests=-1", "user_config={'a': 1}")
        code.write("back.py", with_config)  # touched, not changed
        assert "reconfigured Back; left alone Front" in await said_after(running, r"up to date: .*\n")
        edit(code, "main.py", "user_config={'a': 1}", "user_config={'a': 1}, num_replicas=3")
        assert "scaled Back from 2 to 3; left alone Front" in await said_after(running, r"up to date: .*\n")
        fronts, backs = await pids(url, back=3)
        assert fronts == before[0]
        assert before[1] < backs

        edit(code, "main.py", "num_replicas=3", "ray_actor_options={'num_cpus': 0.5}")
        assert "replaced Back; left alone Front" in await said_after(running, r"up to date: .*\n")
        assert not (await pids(url))[1] & backs


async def test_a_file_added_counts_and_other_files_do_not(code: Cli) -> None:
    edit(
        code,
        "back.py",
        "import os\n",
        "import os\ntry:\n    import extra\nexcept ImportError:\n    extra = None\n",
    )
    async with reloading(code, "main:app") as (running, url):
        fronts, backs = await pids(url)
        code.write("data.json", "{}")
        for folder in (".hidden", "__pycache__", "env"):
            (code.folder / folder).mkdir(exist_ok=True)
        (code.folder / "env" / "pyvenv.cfg").touch()
        for name in (".hidden/a.py", "env/a.py", "__pycache__/a.py"):
            code.write(name, "x = 1")
        code.write("extra.py", "")
        said = await said_after(running, r"up to date: (.*)\.\n")
        assert (
            said.count("Detected")
            == said.count("Detected file change in path extra.py. Redeploying app.\n")
            == 1
        ), said
        assert said.endswith("replaced Back; left alone Front.\n")
        new = await pids(url)
        assert new[0] == fronts
        assert not new[1] & backs


async def test_a_deployment_added_is_started_and_one_left_out_is_removed(code: Cli) -> None:
    async with reloading(code, "main:app") as (running, url):
        code.write("other.py", BACK.replace("class Back", "class Other").replace("says one", "says other"))
        code.write("main.py", MAIN.replace("from back import Back", "from other import Other as Back"))
        said = await said_after(running, "up to date: .*Other.*\n")
        assert "replaced Front; started Other; removed Back" in said  # Front's handle is one to Other now
        assert (await text_of(url)).endswith("says other")


async def test_the_file_with_the_runtime_env_is_watched_too(code: Cli) -> None:
    code.write("env.yaml", "env_vars: {COLOUR: red}\n")
    async with reloading(code, "main:app", "--runtime-env", "env.yaml") as (running, _):
        edit(code, "env.yaml", "red", "green")
        said = await said_after(running, r"up to date: (.*)\.\n")
        assert "in path env.yaml." in said
        assert said.endswith("replaced Back, Front.\n")


# --- config files -----------------------------------------------------------------------------

CONFIG = """
http_options: {port: 0}
applications:
  - name: default
    import_path: main:app
    deployments:
      - {name: Back, num_replicas: 2}
"""


async def test_a_config_file_that_changes_is_deployed_without_restarts(code: Cli) -> None:
    code.write("serve.yaml", CONFIG)
    async with reloading(code, "serve.yaml") as (running, url):
        fronts, backs = await pids(url)
        edit(code, "serve.yaml", "num_replicas: 2", "num_replicas: 3")
        said = await said_after(running, r"up to date: (.*)\.\n")
        assert "in path serve.yaml." in said
        assert said.endswith("scaled Back from 2 to 3; left alone Front.\n")
        new_fronts, new_backs = await pids(url, back=3)
        assert new_fronts == fronts
        assert backs < new_backs

        edit(code, "front.py", "says one", "says two")
        assert (await said_after(running, r"up to date: (.*)\.\n")).endswith(
            "replaced Front; left alone Back.\n"
        )
        assert await pids(url, back=3) != (new_fronts, new_backs)

        edit(code, "serve.yaml", "num_replicas: 3", "num_replicass: 4")
        assert "serve.yaml:7:" in await said_after(running, "What ran before goes on")
        edit(code, "serve.yaml", "num_replicass: 4", "num_replicas: 3")
        assert (await said_after(running, r"up to date: (.*)\.\n")).endswith(": left alone Back, Front.\n")
        assert (await pids(url, back=3))[1] == new_backs

        edit(code, "serve.yaml", "port: 0", "port: 1")
        said = await said_after(running, ": left alone Back, Front")
        assert "Changed http_options take effect when an instance starts" in said


async def test_applications_come_and_go_with_the_config_file_and_bring_their_folders(code: Cli) -> None:
    code.write("serve.yaml", CONFIG)
    (code.folder / "conf").mkdir()
    (code.folder / "else").mkdir()
    config = CONFIG + "    runtime_env: {working_dir: ..}\n"
    code.write(
        "else/second.py",
        "import serve_lite as serve\n@serve.deployment\ndef f(r): return 'v1'\napp = f.bind()\n",
    )
    code.write("conf/serve.yaml", config)
    second = (
        "  - name: second\n    route_prefix: /second\n    import_path: second:app\n"
        "    runtime_env: {working_dir: ../else}\n"
    )
    async with await code.begin("run", "conf/serve.yaml", "-r") as running:
        url = await running.ready_url()
        fronts, backs = await pids(url)
        code.write("conf/serve.yaml", config + second)
        second_url = await running.ready_url("second")
        assert await text_of(second_url) == "v1"
        running.said = ""
        edit(code, "else/second.py", "v1", "v2")
        await said_after(running, "'second' is up to date: replaced f")
        assert await text_of(second_url) == "v2"
        code.write("conf/serve.yaml", config)
        await said_after(running, "'second' is removed")
        await said_after(running, "'default' is up to date: left alone")
        assert await pids(url) == (fronts, backs)
        assert list((await code.status())["applications"]) == ["default"]
        running.send(signal.SIGINT)
        assert await running.ended() == 0


# --- its end ------------------------------------------------------------------------------------


async def test_it_ends_with_the_instance(code: Cli) -> None:
    await code.start()
    async with await code.begin("run", "-r", "main:app") as running:
        await running.ready_url()
        assert (await code("shutdown", "-y")).code == 0
        assert await running.ended() == 1
        assert "The instance has ended" in running.said


async def test_on_a_running_instance_its_application_is_taken_away_at_the_end(
    code: Cli, tmp_path: Path
) -> None:
    await code.start()
    async with await code.begin("run", "shop:app", "--name", "kept", "--route-prefix", "/kept") as kept:
        await kept.ready_url("kept")
        async with await code.begin("run", "-r", "main:app") as running:
            url = await running.ready_url()
            edit(code, "back.py", "says one", "says two")
            await running.until("replaced Back; left alone Front")
            assert (await text_of(url)).endswith("says two")
            running.send(signal.SIGTERM)
            assert await running.ended() == 0
        assert list((await code.status())["applications"]) == ["kept"]
        kept.send(signal.SIGINT)
        await kept.ended()


async def test_it_cannot_leave_at_once(code: Cli) -> None:
    done = await code("run", "main:app", "--reload", "--non-blocking")
    assert done.code == 2
    assert "--reload" in done.err
    assert "--non-blocking" in done.err


async def test_what_is_refused_at_first_ends_it(code: Cli) -> None:
    await code.start()
    async with await code.begin("run", "shop:app") as running:
        await running.ready_url()
        done = await code("run", "-r", "main:app", "--name", "other")
        assert done.code == 1
        assert "Prefix /" in done.err
        running.send(signal.SIGINT)
        await running.ended()
