"""Running the real command line: to its end, or beside the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import anyio
import anyio.abc
import httpx
from anyio.streams.text import TextReceiveStream

from tests.instances import DEADLINE_S

PROGRAM = (sys.executable, "-P", "-m", "serve_lite_cli.main")

#: Variables of the developer that would choose another instance.
FOREIGN = (
    "SERVE_LITE_ADDRESS",
    "RAY_AGENT_ADDRESS",
    "RAY_DASHBOARD_ADDRESS",
    "RAY_ADDRESS",
    "SERVE_LITE_ADMIN_PORT",
    "SERVE_LITE_HTTP_PORT",
    "SERVE_LITE_SETTINGS",
    "SERVE_LITE_TOKEN",
)


class Finished(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


class Running:
    """A command that runs beside the test. Leaving the `async with` block ends it."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.said = ""
        self._out = TextReceiveStream(process.stdout, errors="replace")

    async def until(self, pattern: str) -> re.Match[str]:
        """Return the first match of `pattern` in what the command has printed, once it is there."""
        with anyio.fail_after(DEADLINE_S):
            while not (match := re.search(pattern, self.said)):
                try:
                    self.said += await self._out.receive()
                except anyio.EndOfStream:
                    raise AssertionError(f"{pattern!r} was not printed, but {self.said!r}") from None
            return match

    async def ready_url(self, name: str = "default") -> str:
        """Return where the application is, once it is ready."""
        return (await self.until(rf"Application '{name}' is ready at (\S+)"))[1]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Return the exit code, once the command has ended; what it printed is in `said`."""
        with anyio.fail_after(DEADLINE_S):
            async for text in self._out:
                self.said += text
            return await self.process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.aclose()


class Cli:
    """Commands that mean one state directory, from one folder."""

    def __init__(self, home: str, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.environment = {k: v for k, v in os.environ.items() if k not in FOREIGN}
        self.environment.update(SERVE_LITE_HOME=home, SERVE_LITE_ADMIN_PORT="0")

    async def __call__(self, *words: str, typed: str = "", **variables: str) -> Finished:
        """Run a command to its end."""
        with anyio.fail_after(DEADLINE_S):
            done = await anyio.run_process(
                [*PROGRAM, *words],
                input=typed.encode(),
                check=False,
                cwd=self.folder,
                env={**self.environment, **variables},
            )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    async def begin(self, *words: str, through: Sequence[str] = ()) -> Running:
        """Start a command that goes on; its errors are in what it says. `through` runs it, if given."""
        process = await anyio.open_process(
            [*through, *PROGRAM, *words], cwd=self.folder, env=self.environment, stderr=subprocess.STDOUT
        )
        return Running(process)

    async def start(self) -> str:
        """Start an instance that stays; return the URL of its control plane."""
        done = await self("start", "--http-port", "0")
        assert done.code == 0, done
        return re.search(r"REST +(\S+)", done.out)[1]  # type: ignore[index]

    def write(self, name: str, text: str) -> str:
        """Write a file into the folder; return its name."""
        (self.folder / name).write_text(text)
        return name

    async def status(self, *words: str) -> Any:
        """Return what `serve status` prints, read as YAML."""
        from ruamel.yaml import YAML

        done = await self("status", *words)
        assert done.code == 0, done
        return YAML(typ="safe", pure=True).load(done.out)

    async def until_settled(self, name: str) -> str:
        """Return the status of an application once it is not being deployed any more."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                apps = (await self.status())["applications"]
                if apps[name]["status"] != "DEPLOYING":
                    return str(apps[name]["status"])

    async def close(self) -> None:
        """End the instance, if there is one."""
        done = await self("shutdown", "-y")
        assert done.code == 0, done


async def text_of(url: str) -> str:
    """Return what an application answers."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        answer = await client.get(url)
        assert answer.status_code == 200, answer.text
        return answer.text


async def is_refused(url: str) -> bool:
    """Tell whether nobody listens there."""
    try:
        await text_of(url)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # cut while it was answered: somebody was there
        pass
    return False
