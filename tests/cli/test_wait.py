"""`serve deploy --wait`, `--merge` and `--json`, the real program with a real instance."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import termios

import anyio

from tests.cli.commands import PROGRAM, Cli, text_of
from tests.cli.test_instance_commands import ONE_APP, TWO_APPS
from tests.instances import DEADLINE_S


async def test_waiting_shows_each_phase_once_and_ends_when_all_is_running(cli: Cli) -> None:
    await cli.start()
    done = await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "Deploying from config file: 'serve.yaml'."
    for last in ("one: RUNNING", "two: RUNNING", "two/Hello: HEALTHY"):
        assert lines.count(last) == 1
    assert len(set(re.findall(r"^two/Hello (\w+): (?:.*, )?running$", done.out, re.MULTILINE))) == 2
    assert len(lines) == len(set(lines))


async def test_waiting_for_what_fails_ends_with_one_and_why(cli: Cli) -> None:
    await cli.start()
    done = await cli("deploy", cli.write("app.yaml", "import_path: shop:broken\n"), "--wait")
    assert done.code == 1
    assert "default: DEPLOY_FAILED" in done.out
    assert "Error: Application 'default' is DEPLOY_FAILED" in done.err
    assert "ValueError: there is no model here" in done.err


async def test_waiting_has_an_end(cli: Cli) -> None:
    cli.write(
        "slow.py",
        "from shop import *\nfrom pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.01)\n",
    )
    await cli.start()
    name = cli.write("app.yaml", "import_path: slow:app\n")
    done = await cli("deploy", name, "--wait", "--timeout-s", "0.3")
    assert done.code == 1
    assert "Not ready after 0.3 s: default. The deploy goes on." in done.err
    cli.write("go", "")
    assert await cli.until_settled("default") == "RUNNING"


async def test_programs_get_json_and_nothing_else(cli: Cli) -> None:
    await cli.start()
    sent = await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--json")
    assert json.loads(sent.out) == {"applications": {"one": "DEPLOYING", "two": "DEPLOYING"}}
    waited = await cli("deploy", "serve.yaml", "--wait", "--json")
    told = json.loads(waited.out)
    assert told["applications"] == {"one": "RUNNING", "two": "RUNNING"}
    assert [len(told["replicas"][app]["Hello"]) for app in ("one", "two")] == [1, 2]
    for replica in told["replicas"]["two"]["Hello"].values():
        assert list(replica) == ["starting process", "importing", "constructor"]
        assert all(seconds >= 0 for seconds in replica.values())
    assert set(told["builds"]) == {"one", "two"}

    status = json.loads((await cli("status", "--json")).out)
    assert status["applications"]["two"]["deployments"]["Hello"]["target_num_replicas"] == 2
    assert json.loads((await cli("status", "--json", "-n", "two")).out) == status["applications"]["two"]
    configs = json.loads((await cli("config", "--json")).out)
    assert configs["one"] == {"name": "one", "route_prefix": "/one", "import_path": "shop:app"}
    assert json.loads((await cli("config", "--json", "-n", "one")).out) == {"one": configs["one"]}


async def test_a_merged_file_leaves_other_applications_alone(cli: Cli) -> None:
    await cli.start()
    head, two = TWO_APPS.split("- name: two")
    await cli("deploy", cli.write("one.yaml", head), "--wait")
    assert (
        await cli("deploy", cli.write("two.yaml", f"applications:\n- name: two{two}"), "--merge", "--wait")
    ).code == 0
    assert list((await cli.status())["applications"]) == ["one", "two"]
    refused = await cli("deploy", cli.write("app.yaml", ONE_APP), "--merge")
    assert (refused.code, "--merge needs a file" in refused.err) == (1, True)


SLOW = """
import time
from pathlib import Path

import serve_lite as serve


def gate(name):
    time.sleep(0.1)  # longer than what is too short to be told
    while not Path(f"{name}.open").exists():
        time.sleep(0.01)


@serve.deployment
class Slow:
    def __init__(self):
        gate("constructor")

    def check_health(self):
        gate("health")

    def __call__(self, request):
        return "slow"


app = Slow.bind()
"""


async def test_waiting_tells_each_phase_of_a_replica_while_it_lasts(cli: Cli) -> None:
    cli.write("slow.py", SLOW)
    await cli.start()
    async with await cli.begin(
        "deploy", cli.write("app.yaml", "import_path: slow:app\n"), "--wait"
    ) as waiting:
        await waiting.until(r"default/Slow \w+: (.*, )?constructor\n")
        cli.write("constructor.open", "")
        await waiting.until(r"default/Slow \w+: .*constructor [\d.]+ s, first health check\n")
        cli.write("health.open", "")
        assert await waiting.ended() == 0
        last = r"default/Slow \w+: .*constructor [\d.]+ s, first health check [\d.]+ s, running\n"
        assert re.search(last, waiting.said)
        assert waiting.said.endswith("default: RUNNING\n"), "what says that all is done comes last"


async def test_run_says_what_it_waits_for_if_that_takes_long(cli: Cli) -> None:
    cli.write("slow.py", SLOW)
    async with await cli.begin("run", "slow:app", "--port", "0") as running:
        await running.until(r"default/Slow \w+: (.*, )?constructor\n")
        cli.write("constructor.open", "")
        await running.until(r"default/Slow \w+: .*first health check\n")
        cli.write("health.open", "")
        assert await text_of(await running.ready_url()) == "slow"
        running.send(signal.SIGINT)
        assert await running.ended() == 0


async def test_run_says_nothing_of_phases_if_the_start_is_quick(cli: Cli) -> None:
    async with await cli.begin("run", "shop:app", "--port", "0") as running:
        await running.ready_url()
        running.send(signal.SIGINT)
        await running.ended()
        assert "default/Hello" not in re.sub(r"\(default/Hello \w+\)", "", running.said)


async def test_a_terminal_gets_a_display_that_changes_in_place(cli: Cli) -> None:
    cli.write("slow.py", SLOW)
    await cli.start()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    command = [*PROGRAM, "deploy", cli.write("app.yaml", "import_path: slow:app\n"), "--wait"]
    environment = {**cli.environment, "TERM": "xterm-256color"}
    process = await anyio.open_process(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cli.folder, env=environment
    )
    os.close(theirs)
    try:
        shown = Shown(ours)
        await shown.until(r"constructor +[\d.]+ s")
        assert "UPDATING" in shown.text
        await shown.until(r"(constructor +[\d.]+ s.*){3}")  # painted again: the seconds go on
        cli.write("constructor.open", "")
        await shown.until(r"first health check +[\d.]+ s")
        cli.write("health.open", "")
        await shown.until(r"default +RUNNING +[\d.]+ s")
        with anyio.fail_after(DEADLINE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()
        os.close(ours)
    assert "\x1b[1A" in shown.painted, "lines are painted over"
    assert not re.search(r"default/Slow \w+:", shown.text), "and not told as lines too"


async def test_rich_is_loaded_for_terminals_only(cli: Cli) -> None:
    await cli.start()
    name = cli.write("app.yaml", ONE_APP)
    loaded = await cli("deploy", name, "--wait", PYTHONPROFILEIMPORTTIME="1")
    assert loaded.code == 0
    assert "serve_lite_cli.progress" in loaded.err
    assert "serve_lite_cli.live" not in loaded.err


class Shown:
    """What a command paints on a terminal."""

    def __init__(self, descriptor: int) -> None:
        self.painted = ""
        self._descriptor = descriptor

    @property
    def text(self) -> str:
        """All that was painted, without colours and movements."""
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", self.painted)

    async def until(self, pattern: str) -> None:
        """Return once the pattern was painted."""
        with anyio.fail_after(DEADLINE_S):
            while not re.search(pattern, self.text, re.DOTALL):
                await anyio.wait_readable(self._descriptor)
                try:
                    self.painted += os.read(self._descriptor, 65536).decode(errors="replace")
                except OSError:  # how a terminal says that nobody writes to it any more
                    raise AssertionError(f"{pattern!r} was not painted, but {self.text!r}") from None
