"""Every way a start can fail: `deploy --wait`, `status` and `run` end with what the author needs to know."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Cli

#: Each line that fails says so in a comment, by which the tests find its number.
CODE = """
import asyncio, ctypes, os, signal, sys, time

import serve_lite as serve

KIND = os.environ.get("KIND", "")
IN_REPLICA = b"serve-lite: replica" in open("/proc/self/cmdline", "rb").read()

if KIND == "import" and IN_REPLICA:
    raise ImportError("there is no such library")  # import
if KIND == "build":
    raise ImportError("there is no such library")  # build


class Unreadable:
    def __reduce__(self):
        return (explode, ())


def explode():
    raise ValueError("this cannot be read here")  # unreadable


def use_up_memory():
    with open(os.environ["MEMORY_GROUP"] + "/cgroup.procs", "w") as group:
        group.write(str(os.getpid()))
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


class Base:
    def __init__(self, argument=None):
        print(f"about to {KIND}", file=sys.stderr, flush=True)
        if KIND == "constructor":
            raise ValueError("there is no model here")  # constructor
        if KIND == "sysexit":
            sys.exit("no licence")  # sysexit
        if KIND == "exit":
            os._exit(4)
        if KIND == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        if KIND == "segv":
            ctypes.string_at(0)  # segv
        if KIND == "memory":
            use_up_memory()

    def __call__(self, request):
        return "ok"


OPTIONS = dict(max_constructor_retry_count=1, health_check_timeout_s=0.3)


@serve.deployment(**OPTIONS)
class Bad(Base):
    def reconfigure(self, config):
        if KIND == "reconfigure":
            raise LookupError("no such setting")  # reconfigure

    def check_health(self):
        if KIND == "sick":
            raise RuntimeError("the card does not answer")  # sick
        if KIND == "hang":
            while not os.path.exists("let_go"):
                time.sleep(0.01)  # hang


@serve.deployment(**OPTIONS)
class BadAsync(Base):
    async def check_health(self):
        await asyncio.Event().wait()  # asynchang


if KIND == "unpicklable":
    app = Bad.bind(i for i in range(3))  # unpicklable
elif KIND == "asynchang":
    app = BadAsync.bind()
elif KIND == "unreadable":
    app = Bad.bind(Unreadable())
else:
    app = Bad.options(user_config={"a": 1}).bind()
"""

#: The last line that is told, by the kind of failure; `{line}` is where the comment stands.
LAST_LINE = {
    "build": "ImportError: there is no such library (at {line})",
    "import": "ImportError: there is no such library (at {line})",
    "constructor": "ValueError: there is no model here (at {line})",
    "sysexit": "RayServeException: user code ended the process by SystemExit: no licence (at {line})",
    "reconfigure": "LookupError: no such setting (at {line})",
    "sick": "RuntimeError: the card does not answer (at {line})",
    "hang": "`check_health` gave no answer within 0.3 s (health_check_timeout_s); it was at ",
    "asynchang": "`check_health` gave no answer within 0.3 s (health_check_timeout_s); it was at {line}",
    "unreadable": "ValueError: this cannot be read here (at {line})",
}
#: How the process ended, and what it printed last.
ENDED = {
    "exit": ("it exited with status 4", "about to exit"),
    "sigkill": ("it was killed by SIGKILL", "about to sigkill"),
    "segv": ("it was killed by SIGSEGV", 'bad.py", line {number} in __init__'),
}


@pytest.fixture
def bad(cli: Cli) -> Iterator[Cli]:
    cli.write("bad.py", CODE)
    yield cli
    cli.write("let_go", "")


def config(cli: Cli, kind: str, **variables: str) -> str:
    lines = [f"      {name}: {value}\n" for name, value in {"KIND": kind, **variables}.items()]
    return cli.write(
        "bad.yaml",
        "applications:\n- name: shop\n  import_path: bad:app\n  runtime_env:\n    env_vars:\n"
        + "".join(lines),
    )


def number_of(kind: str) -> int:
    """Return the number of the line that fails."""
    [number] = [i for i, line in enumerate(CODE.splitlines(), 1) if line.endswith(f"# {kind}")]
    return number


def line_of(cli: Cli, kind: str) -> str:
    return f"{cli.folder}/bad.py:{number_of(kind)}"


@pytest.mark.parametrize("kind", LAST_LINE)
async def test_an_exception_ends_what_is_told_with_its_line(bad: Cli, kind: str) -> None:
    await bad.start()
    expected = LAST_LINE[kind].format(line=line_of(bad, kind))

    waited = await bad("deploy", config(bad, kind), "--wait")
    assert waited.code == 1
    assert expected in waited.err.splitlines()[-1], waited.err
    if kind != "build":
        assert re.search(
            rf"^shop/Bad\w* \w+: (.* s, )?failed: .*{re.escape(expected)}", waited.out, re.MULTILINE
        )

    app = (await bad.status())["applications"]["shop"]
    assert app["status"] == "DEPLOY_FAILED"
    assert expected in app["message"].strip().splitlines()[-1]


@pytest.mark.parametrize("kind", ENDED)
async def test_a_process_that_ends_is_told_with_how_and_what_it_printed_last(bad: Cli, kind: str) -> None:
    await bad.start()
    how, printed = (text.format(number=number_of(kind) if "{" in text else 0) for text in ENDED[kind])

    waited = await bad("deploy", config(bad, kind), "--wait")
    assert waited.code == 1
    assert re.search(
        rf"ended while it was starting \(constructor since [\d.]+ s\): {how}\. Its last output:", waited.err
    )
    assert printed in waited.err.splitlines()[-1], "what comes after it says nothing"
    assert re.search(rf"^shop/Bad \w+: .*failed: .*{how}\.$", waited.out, re.MULTILINE)

    message = (await bad.status())["applications"]["shop"]["message"]
    assert how in message
    assert printed in message.strip().splitlines()[-1]


@pytest.mark.parametrize("kind", ["constructor", "segv", "hang"])
async def test_run_ends_with_the_same(bad: Cli, kind: str) -> None:
    done = await bad("run", config(bad, kind), "-p", "0")
    assert done.code == 1
    [*_, last] = done.err.strip().splitlines()
    if kind in ENDED:
        assert ENDED[kind][0] in done.err
        assert ENDED[kind][1].format(number=number_of(kind)) in last
    else:
        assert LAST_LINE[kind].format(line=line_of(bad, kind)) in last


async def test_an_argument_that_cannot_travel_is_named(bad: Cli) -> None:
    await bad.start()
    waited = await bad("deploy", config(bad, "unpicklable"), "--wait")
    assert waited.code == 1
    assert "generator" in waited.err
    assert "Bad" in waited.err


@pytest.fixture
def memory_group(tmp_path: Path) -> Iterator[Path]:
    """A memory cgroup that a small process fits into."""
    for root, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", root, f"serve-lite-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(128 << 20))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no memory cgroup can be made here")


async def test_a_process_that_the_kernel_ends_for_lack_of_memory_is_told_as_one(
    bad: Cli, memory_group: Path
) -> None:
    await bad.start()
    waited = await bad("deploy", config(bad, "memory", MEMORY_GROUP=str(memory_group)), "--wait")
    assert waited.code == 1
    assert "it was killed by SIGKILL (memory ran out:" in waited.err
