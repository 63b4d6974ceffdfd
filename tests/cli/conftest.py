"""Fixtures for tests of the real command line: `cli`, commands with a state directory and code of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.commands import Cli
from tests.instances import Instances

CODE = """
import time
from pathlib import Path

import serve_lite as serve


@serve.deployment
class Hello:
    def __init__(self, who="world"):
        print(f"constructing for {who}")
        self.who = who

    async def __call__(self, request):
        print("asked")
        return f"hello {self.who}"


@serve.deployment
class Broken:
    def __init__(self):
        raise ValueError("there is no model here")


@serve.deployment(graceful_shutdown_timeout_s=600)
class Held:
    def __call__(self, request):
        Path("entered").touch()
        while not Path("open").exists():
            time.sleep(0.01)
        return "let go"


app = Hello.bind()
broken = Broken.bind()
held = Held.bind()
number = 3


def build(args):
    return Hello.bind(args["who"])


def raising(args):
    raise LookupError(f"nothing for {sorted(args)}")
"""


@pytest.fixture
async def cli(instances: Instances, tmp_path: Path) -> AsyncIterator[Cli]:
    """The command line in a folder with a module `shop`. Ends what is still running of it."""
    (tmp_path / "shop.py").write_text(CODE)
    cli = Cli(instances.options().home, tmp_path)
    yield cli
    await cli.close()
