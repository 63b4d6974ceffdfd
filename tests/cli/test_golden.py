"""What every command prints, word by word, against the texts in golden/.

Each test takes a real instance through one scenario. What differs from run to run (times, ports, directories, ids of
replicas) is replaced by placeholders, and so is what differs by release of Python (the marks below a line of a
traceback).

After a change that is meant, `SERVE_LITE_UPDATE_GOLDEN=1 pytest tests/cli/test_golden.py` writes the texts anew; read
the difference before you commit it.

Left out are the layout of help texts, which is typer's and differs by release, and the documents of `serve schema` and
`serve status --json`, which are told by tests of their own.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from serve_lite_cli.program import COMMANDS
from tests.cli.commands import Cli, Finished

GOLDEN = Path(__file__).with_name("golden")
UPDATE = "SERVE_LITE_UPDATE_GOLDEN"

FILE = """\
applications:
- name: one
  route_prefix: /one
  import_path: shop:app
- name: two
  route_prefix: /two
  import_path: shop:build
  args:
    who: you
  deployments:
  - name: Hello
    num_replicas: 2
"""
WRONG = "applications:\n- import_path: shop:app\n  route_prfix: /x\n"

#: Patterns with what stands for what they find. The directories come first, with the longer one in front.
PLACEHOLDERS = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", "YYYY-MM-DD HH:MM:SS"),
    (r"\b1\d{9}\.\d+", "<seconds>"),
    (r"(?<=http://127\.0\.0\.1:)\d+", "<port>"),
    (r"(?<=Hello )[a-z0-9]{8}\b", "xxxxxxxx"),
    (r"(?<=\"replica\": \")[a-z0-9]{8}(?=\")", "xxxxxxxx"),
    (r"(?<=#)[a-z0-9]{8}(?=\")", "xxxxxxxx"),
    (r"(?<=\n        \")[a-z0-9]{8}(?=\": \{)", "xxxxxxxx"),
    (r"(?<=process\": |porting\": |tructor\": )[\d.e-]+", "<seconds>"),
    (r"(?<=proxies:\n  )\S+(?=: )", "<node>"),
    (re.escape(sys.executable), "<python>"),
    (r"(?<=\(process )\d+(?=\))|(?<=\"pid\": )\d+", "<pid>"),
    (r"(?<=from )\S+(?= \(process)|(?<= to )\S+(?= \(process)|(?<=\"version\": \")[^\"]+", "<version>"),
    (r"(?<=serve-lite v)\S+", "<version>"),
    (r"(?<=serve-lite, version )\S+", "<version>"),
    (r"\n *[~^]+(?=\n)", ""),
    (r"\b[0-9a-f]{64}\b", "<token>"),
)
#: Of `controller-health` no value is known beforehand.
NUMBERS = ((r"(?<=: )(-?[\d.e-]+|null|<seconds>)(?=,?\n)", "<number>"),)


def settled(text: str, cli: Cli) -> str:
    """Return the text without what differs from run to run."""
    for directory, name in ((cli.home, "<home>"), (str(cli.folder), "<folder>")):
        text = text.replace(directory, name)
    for pattern, name in PLACEHOLDERS:
        text = re.sub(pattern, name, text)
    return text


class Scenario:
    """Commands whose outputs are held against the files of a folder, or written to them."""

    def __init__(self, cli: Cli, name: str) -> None:
        self.cli = cli
        self.folder = GOLDEN / name
        self.differing: list[str] = []
        self.seen: set[str] = set()

    async def __call__(
        self, name: str, *words: str, typed: str = "", numbers: bool = False, streams: str = "out err"
    ) -> Finished:
        """Run a command and hold what it prints against the file `name`.

        Args:
            typed: its answers to questions.
            numbers: what they are is not known.
            streams: which are held; the other one shows progress, which depends on when one looks.
        """
        done = await self.cli(*words, typed=typed)
        out = done.out if "out" in streams else ""
        err = done.err if "err" in streams else ""
        text = out + (f"--- stderr\n{err}" if err else "")
        text += "" if text.endswith("\n") or not text else "\n"
        shown = " ".join(word if re.fullmatch(r"[\w./:=@-]+", word) else f"'{word}'" for word in words)
        text = settled(f"$ serve {shown}\n{text}--- exit code {done.code}\n", self.cli)
        for pattern, placeholder in NUMBERS if numbers else ():
            text = re.sub(pattern, placeholder, text)
        self.hold(name, text)
        return done

    def hold(self, name: str, text: str) -> None:
        """Hold a text against its file."""
        assert name not in self.seen, f"two outputs are called {name}"
        self.seen.add(name)
        file = self.folder / f"{name}.txt"
        if os.environ.get(UPDATE):
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        elif not file.exists():
            self.differing.append(f"{file} is missing; it would be\n{text}")
        elif (known := file.read_text()) != text:
            self.differing.append(f"{file} says\n{known}\nand the command\n{text}")

    def finish(self) -> None:
        """Fail if an output differed, or if a file is left that no command belongs to."""
        for file in self.folder.glob("*.txt"):
            if file.stem not in self.seen:
                if os.environ.get(UPDATE):
                    file.unlink()
                else:
                    self.differing.append(f"no command belongs to {file.name}")
        assert not self.differing, "\n\n".join([f"{UPDATE}=1 writes them anew.", *self.differing])


async def running(cli: Cli, name: str) -> Scenario:
    """Return a scenario in which the applications of `FILE` run."""
    await cli.start()
    assert (await cli("deploy", cli.write("serve.yaml", FILE), "--wait")).code == 0
    return Scenario(cli, name)


async def test_without_an_instance(cli: Cli) -> None:
    say = Scenario(cli, "without-an-instance")
    cli.write("serve.yaml", FILE)
    cli.write("wrong.yaml", WRONG)
    await say("version", "--version")
    await say("status", "status")
    await say("status-where-nobody-listens", "status", "-a", "http://127.0.0.1:1")
    await say("status-at-no-address", "status", "-a", "localhost:52365")
    await say("validate", "validate", "serve.yaml")
    await say("validate-json", "validate", "serve.yaml", "--json")
    await say("validate-wrong", "validate", "wrong.yaml")
    await say("build", "build", "shop:app")
    await say("build-json", "build", "shop:app", "--json")
    await say("build-kubernetes", "build", "shop:app", "-k", "--single-app")
    await say("build-nothing", "build", "shop:nothing")
    say.finish()


async def test_on_an_empty_instance(cli: Cli) -> None:
    say = Scenario(cli, "empty")
    cli.write("serve.yaml", FILE)
    cli.write("wrong.yaml", WRONG)
    await say("start", "start", "--http-port", "0")
    await say("start-again", "start")
    await say("start-again-json", "start", "--json")
    await say("status", "status")
    await say("status-unknown", "status", "-n", "nobody")
    await say("status-table", "status", "--table")
    await say("config", "config")
    await say("config-unknown", "config", "-n", "nobody")
    await say("logs", "logs")
    await say("keys", "keys", "list")
    await say("keys-json", "keys", "list", "--json")
    await say("keys-remove-unknown", "keys", "remove", "nobody")
    await say("keys-add-what-is-none", "keys", "add", "nobody", "--rate", "often")
    await say("diff", "diff", "serve.yaml")
    await say("deploy-wrong", "deploy", "wrong.yaml")
    await say("deploy-arguments-with-a-file", "deploy", "serve.yaml", "who=you")
    say.finish()


async def test_with_applications(cli: Cli) -> None:
    say = Scenario(cli, "applications")
    cli.write("serve.yaml", FILE)
    await cli.start()
    await say("deploy", "deploy", "serve.yaml")
    for name in ("one", "two"):
        assert await cli.until_settled(name) == "RUNNING"
    await say("status", "status")
    await say("status-one", "status", "-n", "one")
    await say("status-table", "status", "--table")
    await say("config", "config")
    await say("config-one", "config", "-n", "one")
    await say("config-json", "config", "--json")
    await say("logs", "logs", "--app", "one")
    await say("logs-json", "logs", "--app", "one", "--json")
    await say("logs-unknown", "logs", "--app", "nobody")
    await say("events", "events", "--app", "one")
    await say("events-json", "events", "--app", "one", "--json")
    await say("deploy-merged", "deploy", "shop:app", "--name", "three", "--route-prefix", "/three", "--merge")
    await say("deploy-json", "deploy", "serve.yaml", "--wait", "--json", streams="out")
    await say("deploy-wait", "deploy", "serve.yaml", "--wait", streams="out")
    say.finish()


async def test_changing_what_runs(cli: Cli) -> None:
    say = await running(cli, "operations")
    changed = FILE.replace("who: you", "who: me").replace("num_replicas: 2", "num_replicas: 3")
    cli.write("next.yaml", changed)
    await say("diff", "diff", "next.yaml")
    await say("diff-json", "diff", "next.yaml", "--json")
    assert (await cli("deploy", "next.yaml", "--wait")).code == 0
    await say("history", "history", "two")
    await say("history-json", "history", "two", "--json")
    await say("history-unknown", "history", "nobody")
    await say("rollback", "rollback", "two")
    assert await cli.until_settled("two") == "RUNNING"
    await say("rollback-json", "rollback", "two", "1", "--json")
    await say("rollback-unknown", "rollback", "two", "77")
    await say("scale", "scale", "one", "Hello", "1")
    await say("scale-json", "scale", "one", "Hello", "1", "--json")
    await say("scale-unknown", "scale", "one", "Nobody", "1")
    await say("controller-health", "controller-health", numbers=True)
    await say("controller-health-json", "controller-health", "--json", numbers=True)
    say.finish()


async def test_failing_beside_what_runs(cli: Cli) -> None:
    say = await running(cli, "failing")
    other = ("--name", "other", "--route-prefix", "/other")
    await say("deploy", "deploy", "shop:broken", *other, "--merge", "--wait", streams="err")
    await say("run", "run", "shop:broken", *other, streams="err")
    await cli("deploy", "shop:broken", "--name", "two", "--route-prefix", "/two", "--merge", "--wait")
    await say("history", "history", "two")
    await say("run-nothing", "run", "shop:nothing", "--name", "third", "--route-prefix", "/third")
    await say("run-taken-prefix", "run", "shop:app", "--name", "third", "--route-prefix", "/one")
    say.finish()


async def test_removing(cli: Cli) -> None:
    say = await running(cli, "removing")
    await say("delete-not", "delete", "one", typed="n\n")
    await say("delete", "delete", "one", typed="y\n")
    await say("delete-json", "delete", "-y", "two", "--json")
    await say("delete-unknown", "delete", "-y", "nobody")
    await say("shutdown-not", "shutdown", typed="n\n")
    await say("shutdown", "shutdown", "-y")
    await say("shutdown-again", "shutdown", "-y")
    await say("shutdown-again-json", "shutdown", "-y", "--json")
    say.finish()


async def test_guarding(cli: Cli) -> None:
    await cli.start()
    say = Scenario(cli, "guarding")
    await say("token", "token")
    await say("token-json", "token", "show", "--json")
    await say("token-rotate", "token", "rotate", "--grace", "60")
    await say("security-check", "security-check")
    await say("security-check-json", "security-check", "--json")
    say.finish()


async def test_upgrading(cli: Cli) -> None:
    say = await running(cli, "upgrading")
    await say("upgrade", "upgrade", "--grace-period", "0")
    await say("upgrade-json", "upgrade", "--grace-period", "0", "--json")
    await say("systemd", "systemd")
    await say("systemd-json", "systemd", "--json")
    await say("systemd-sockets-need-ports", "systemd", "--sockets")
    await say("systemd-system-needs-a-user", "systemd", "--system")
    say.finish()


def test_every_command_is_held_against_a_text() -> None:
    lines = {file.read_text().splitlines()[0] for file in GOLDEN.glob("*/*.txt")}
    assert {line.split()[2] for line in lines} >= set(COMMANDS) - {"schema"}
