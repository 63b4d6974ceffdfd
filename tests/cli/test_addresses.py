"""Which instance a command means, and what it says when somebody else answers there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serve_lite_cli.program import COMMANDS
from tests.cli.commands import Cli
from tests.cli.test_instance_commands import ONE_APP

#: Words that make each command ask its instance something.
QUESTIONS: dict[str, list[str]] = {
    "deploy": ["deploy", "app.yaml"],
    "diff": ["diff", "app.yaml"],
    "scale": ["scale", "default", "Hello", "2"],
    "history": ["history", "default"],
    "rollback": ["rollback", "default"],
    "status": ["status"],
    "logs": ["logs"],
    "events": ["events"],
    "config": ["config"],
    "delete": ["delete", "-y", "default"],
    "shutdown": ["shutdown", "-y"],
    "controller-health": ["controller-health"],
}
READERS = ["history", "status", "logs", "events", "config", "controller-health", "rollback", "diff"]


class Stranger(ThreadingHTTPServer):
    """A server that is no control plane, and answers everything in one way."""

    status, body = 200, b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Stranger

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_command_with_an_address_is_asked_here() -> None:
    without = {
        "start",
        "run",
        "build",
        "validate",
        "schema",
        "upgrade",
        "systemd",
        "token",
        "keys",
        "security-check",
    }
    assert set(QUESTIONS) == set(COMMANDS) - without


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("body", [b"hello world", b"[]", b"{}", b""])
async def test_somebody_else_who_answers_is_told_as_such(
    cli: Cli, stranger: Stranger, command: str, body: bytes
) -> None:
    cli.write("app.yaml", ONE_APP)
    stranger.body = body
    if command == "controller-health" and body == b"{}":
        return  # an object without fields is an answer
    done = await cli(*QUESTIONS[command], "-a", stranger.url)
    assert done.code == 1, done
    assert done.err.count("Error: ") == 1 and "Traceback" not in done.err
    assert f"What answers at {stranger.url} is no control plane of serve-lite" in done.err


@pytest.mark.parametrize("command", QUESTIONS)
@pytest.mark.parametrize("status", [404, 503])
async def test_an_answer_that_is_no_success_is_one_error_with_its_text(
    cli: Cli, stranger: Stranger, command: str, status: int
) -> None:
    cli.write("app.yaml", ONE_APP)
    stranger.status, stranger.body = status, b"the balancer knows of nobody here"
    done = await cli(*QUESTIONS[command], "-a", stranger.url)
    assert done.code == 1, done
    assert done.err.count("Error: ") == 1 and "Traceback" not in done.err
    assert f"failed with status code {status}: the balancer knows of nobody here" in done.err


@pytest.mark.parametrize("command", QUESTIONS)
async def test_an_address_where_nobody_listens_is_one_error(cli: Cli, command: str) -> None:
    cli.write("app.yaml", ONE_APP)
    done = await cli(*QUESTIONS[command], "--address", "http://127.0.0.1:1")
    assert done.code == 1
    assert done.err.startswith("Error: Failed to connect to serve-lite at address: http://127.0.0.1:1")


@pytest.mark.parametrize(
    "variable", ["SERVE_LITE_ADDRESS", "RAY_AGENT_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS"]
)
async def test_the_environment_names_the_instance(cli: Cli, variable: str) -> None:
    rest = await cli.start()
    elsewhere = str(cli.folder / "elsewhere")
    done = await cli("status", SERVE_LITE_HOME=elsewhere, **{variable: rest})
    assert done.code == 0, done
    by_directory = await cli("status", SERVE_LITE_HOME=elsewhere, **{variable: cli.home})
    assert by_directory.code == 0, by_directory


async def test_the_option_wins_over_the_environment(cli: Cli) -> None:
    rest = await cli.start()
    done = await cli("status", "-a", rest, SERVE_LITE_ADDRESS="http://127.0.0.1:1")
    assert done.code == 0, done


@pytest.mark.parametrize("named", ["auto", "local"])
async def test_rays_words_for_here_mean_the_own_instance(cli: Cli, named: str) -> None:
    assert (await cli("start", "--http-port", "0", RAY_ADDRESS=named)).code == 0
    done = await cli("status", RAY_ADDRESS=named)
    assert (done.code, done.err) == (0, "")
    assert (await cli("status", "-a", named)).code == 0


@pytest.mark.parametrize("named", ["ray://head:10001", "127.0.0.1:6379"])
async def test_a_cluster_of_ray_is_passed_over_with_a_warning(cli: Cli, named: str) -> None:
    done = await cli("start", "--http-port", "0", RAY_ADDRESS=named)
    assert done.code == 0, done
    assert f"Warning: RAY_ADDRESS is '{named}'" in done.err
    ran = await cli("run", "shop:app", "--non-blocking", RAY_ADDRESS=named)
    assert (ran.code, "passed over" in ran.err) == (0, True), ran
    assert list((await cli.status())["applications"]) == ["default"]


async def test_start_and_run_take_a_state_directory(cli: Cli) -> None:
    elsewhere = str(cli.folder / "elsewhere")
    done = await cli("start", "-a", cli.home, "--http-port", "0", SERVE_LITE_HOME=elsewhere)
    assert done.code == 0, done
    ran = await cli("run", "shop:app", "--non-blocking", "--address", cli.home, SERVE_LITE_HOME=elsewhere)
    assert ran.code == 0, ran
    assert list((await cli.status())["applications"]) == ["default"]
    refused = await cli("run", "shop:app", "-a", "http://127.0.0.1:1")
    assert (refused.code, "is a URL" in refused.err) == (1, True)
