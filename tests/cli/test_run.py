"""`serve run`, the real program with a real instance."""

from __future__ import annotations

import re
import signal
import socket

import anyio
import pytest

from tests.cli.commands import Cli, Finished, is_refused, text_of
from tests.instances import until

PORTS = ("--port", "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_a_signal_and_leaves_nothing(cli: Cli, number: signal.Signals) -> None:
    async with await cli.begin("run", "shop:app", *PORTS) as running:
        url = await running.ready_url()
        assert await text_of(url) == "hello world"

        running.send(number)
        assert await running.ended() == 0
        assert "shutting down" in running.said
        assert await is_refused(url)


async def test_a_shell_that_ignores_ctrl_c_for_its_background_jobs_changes_nothing(cli: Cli) -> None:
    ignoring = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    async with await cli.begin("run", "shop:app", *PORTS, through=ignoring) as running:
        await running.ready_url()
        running.send(signal.SIGINT)
        assert await running.ended() == 0


async def test_what_the_application_prints_is_shown_with_who_said_it(cli: Cli) -> None:
    async with await cli.begin("run", "shop:build", "who=you", *PORTS) as running:
        await running.until(r"\(default/Hello \w+\) constructing for you")
        assert await text_of(await running.ready_url()) == "hello you"
        await running.until(r"\(default/Hello \w+\) asked")
        running.send(signal.SIGINT)
        await running.ended()


async def test_on_a_running_instance_only_its_own_application_is_removed(cli: Cli) -> None:
    await cli.start()
    async with await cli.begin("run", "shop:app") as first:
        kept = await first.ready_url()
        async with await cli.begin(
            "run", "shop:build", "who=two", "--name", "second", "--route-prefix", "/two"
        ) as second:
            assert await text_of(await second.ready_url("second")) == "hello two"
            second.send(signal.SIGINT)
            assert await second.ended() == 0

        assert await text_of(kept) == "hello world"
        assert list((await cli.status())["applications"]) == ["default"]
        first.send(signal.SIGINT)
        assert await first.ended() == 0
    assert (await cli.status())["applications"] == {}


async def test_without_blocking_the_application_stays(cli: Cli) -> None:
    done = await cli("run", "shop:app", "--non-blocking", *PORTS)
    assert done.code == 0, done
    assert await text_of(re.search(r"ready at (\S+)", done.out)[1]) == "hello world"  # type: ignore[index]


async def test_a_second_signal_does_not_wait_for_requests(cli: Cli) -> None:
    async with await cli.begin("run", "shop:held", *PORTS) as running:
        url = await running.ready_url()
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                with pytest.raises(Exception):
                    await text_of(url)

            group.start_soon(ask)
            await until((cli.folder / "entered").exists, "the request is inside user code")
            running.send(signal.SIGINT)
            await running.until("shutting down")
            running.send(signal.SIGINT)
            assert await running.ended() == 0


async def test_it_ends_in_order_when_nobody_reads_its_output_any_more(cli: Cli) -> None:
    await cli.start()
    three_lines = ("bash", "-c", 'set -o pipefail; "$@" | head -n 3', "bash")
    async with await cli.begin("run", "shop:app", through=three_lines) as running:
        await running.until("constructing")
        assert await text_of(await running.ready_url()) == "hello world"  # prints a fourth line
        assert await running.ended() == 0
    assert (await cli.status())["applications"] == {}


async def test_killed_it_leaves_nothing_either(cli: Cli) -> None:
    async with await cli.begin("run", "shop:app", *PORTS) as running:
        url = await running.ready_url()
        running.send(signal.SIGKILL)
        await running.ended()
    while not await is_refused(url):
        pass


async def test_a_config_file_is_run_with_its_folder_as_the_place_of_code(cli: Cli) -> None:
    cli.folder.joinpath("conf").mkdir()
    cli.folder.joinpath("shop.py").rename(cli.folder / "conf" / "shop.py")
    cli.write(
        "conf/serve.yaml",
        "http_options: {port: 0}\n"
        "applications:\n"
        "  - {name: a, route_prefix: /a, import_path: 'shop:build', args: {who: a}}\n"
        "  - {name: b, route_prefix: /b, import_path: 'shop:app', runtime_env: {working_dir: .}}\n",
    )
    async with await cli.begin("run", "conf/serve.yaml") as running:
        assert await text_of(await running.ready_url("a")) == "hello a"
        assert await text_of(await running.ready_url("b")) == "hello world"
        running.send(signal.SIGINT)
        assert await running.ended() == 0


# --- what goes wrong ----------------------------------------------------------------------------


def assert_one_error(done: Finished, *words: str) -> None:
    assert done.code == 1, done
    assert [line.startswith("Error: ") for line in done.err.splitlines()].count(True) == 1, done
    assert "serve_lite" not in done.err.replace("serve_lite_test", ""), (
        "our own code is not the user's affair"
    )
    for word in words:
        assert word in done.err


BAD_TARGETS = {
    "shop:number": ("'shop:number'", "int", ".bind()"),
    "shop:nmber": ("'nmber'", "'number'"),
    "shop:Hello": ("'shop:Hello'", ".bind()"),
    "shpo:app": ("'shpo'", "--app-dir"),
    "shop": ("'shop'", "module:app"),
    "shop.py:app": ("'shop.py:app'", "'shop:app'"),
    "nothing.yaml": ("'nothing.yaml'",),
}


@pytest.mark.parametrize("target", BAD_TARGETS)
async def test_a_target_that_is_no_application_is_one_clear_error(cli: Cli, target: str) -> None:
    assert_one_error(await cli("run", target, *PORTS), *BAD_TARGETS[target])


async def test_a_constructor_that_raises_ends_the_message_with_its_exception_and_place(cli: Cli) -> None:
    done = await cli("run", "shop:broken", *PORTS)
    assert_one_error(done, "'Broken'", "ValueError: there is no model here")
    assert re.search(r"shop\.py:\d+\)?$", done.err.strip())


async def test_a_builder_that_raises_ends_the_message_with_its_exception_and_place(cli: Cli) -> None:
    done = await cli("run", "shop:raising", "b=1", "a=2", *PORTS)
    assert_one_error(done, "LookupError: nothing for ['a', 'b']")
    assert re.search(r"shop\.py:\d+\)?$", done.err.strip())


async def test_arguments_for_what_is_no_builder_are_refused(cli: Cli) -> None:
    assert_one_error(await cli("run", "shop:app", "who=you", *PORTS), "'shop:app'", "argument")


async def test_a_port_in_use_is_told_with_its_holder_and_the_option(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_error(await cli("run", "shop:app", "--port", str(port)), str(port), "--port")
        assert_one_error(
            await cli("run", "shop:app", *PORTS, "--admin-port", str(port)), str(port), "--admin-port"
        )


async def test_what_was_running_goes_on_running_when_a_run_fails(cli: Cli) -> None:
    await cli.start()
    async with await cli.begin("run", "shop:app") as running:
        url = await running.ready_url()
        assert_one_error(await cli("run", "shop:broken", "--name", "new", "--route-prefix", "/new"), "model")
        assert_one_error(await cli("run", "shop:app", "--name", "new"), "Prefix /", "default")
        assert_one_error(await cli("run", "shop:app", "--name", "n", "--route-prefix", "new"), "'new'", "'/'")
        assert_one_error(await cli("run", "shop:number"), "'shop:number'")

        assert await text_of(url) == "hello world"
        assert list((await cli.status())["applications"]) == ["default"]
        running.send(signal.SIGINT)
        await running.ended()


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "shop:app", "--prot", "1"],
        ["run", "shop:app", "--port", "x"],
        ["run", "shop:app", "--port", "70000"],
        ["run", "shop:app", "--reload", "--non-blocking"],
        ["run", "shop:app", "-r", "--reload=yes"],
        ["run", "shop:app", "--gradio"],
        ["rum", "shop:app"],
    ],
)
async def test_a_command_line_that_makes_no_sense_ends_with_2(cli: Cli, words: list[str]) -> None:
    done = await cli(*words)
    assert done.code == 2
    assert "Error: " in done.err
