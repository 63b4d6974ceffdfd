"""`serve_lite.testing.running`, and local applications beside an instance."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

import serve_lite as serve
from serve_lite import testing
from serve_lite.exceptions import RayServeException
from tests.instances import Instance
from tests.testing.conftest import DEADLINE_S

pytestmark = [pytest.mark.processes, pytest.mark.anyio]


@serve.deployment
class Where:
    """Tells in which process it runs."""

    def __init__(self, word: str = "here") -> None:
        self.word = word

    async def __call__(self, request: Any) -> str:
        return self.word

    def pid(self) -> int:
        return os.getpid()


def build(args: dict[str, str]) -> serve.Application:
    return Where.bind(args["word"])


def result(response: Any) -> Any:
    return response.result(timeout_s=DEADLINE_S)


@pytest.mark.usefixtures("shared_instance")
def test_an_application_runs_on_an_instance_of_the_tests_own_for_the_time_of_a_block() -> None:
    before = os.environ.get("SERVE_LITE_HOME")
    with testing.running(Where.bind("one"), "one", "/one") as one:
        with testing.running(build, "two", "/two", args={"word": "two"}) as two:
            assert os.environ["SERVE_LITE_HOME"] == one.instance.home == two.instance.home
            assert (one.client.get("/one").text, two.client.get("/two").text) == ("one", "two")
            assert result(one.handle.pid.remote()) != result(two.handle.pid.remote()) != os.getpid()
            assert sorted(serve.status().applications) == ["one", "two"]
            assert httpx.get(two.instance.admin_address + "/api/serve/applications/").status_code == 200
        assert sorted(serve.status().applications) == ["one"]
        assert "one" in one.instance.logs("one")
        home = one.instance.home
    assert os.environ.get("SERVE_LITE_HOME") == before
    testing._shared.close()
    assert not os.path.exists(home)


@pytest.mark.usefixtures("shared_instance")
def test_a_test_that_shuts_the_instance_down_does_not_hinder_the_next() -> None:
    with testing.running(Where.bind()) as first:
        gone = first.instance.home
        serve.shutdown()
        assert serve.status().applications == {}
    with testing.running(Where.bind()) as second:
        assert second.client.get("/").text == "here"
        assert second.instance.home != gone and not os.path.exists(gone)


def test_the_blocks_application_is_removed_when_the_block_raises(private: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with testing.running(Where.bind(), local=True):
            raise ZeroDivisionError
    assert serve.status().applications == {}


def test_what_is_no_application_is_refused_before_anything_starts(private: Path) -> None:
    with pytest.raises(TypeError, match="bind"):
        with testing.running(Where, local=True):
            pass
    with pytest.raises(Exception, match="no module 'nowhere_at_all'"):
        with testing.running("nowhere_at_all:app", local=True):
            pass


# --- beside an instance --------------------------------------------------------------------------


async def test_a_local_application_and_one_of_an_instance_know_each_other(daemon: Instance) -> None:
    def script() -> None:
        there = serve.run(Where.bind("there"), name="there", route_prefix="/there")
        here = serve.run(Where.bind(), name="here", _local_testing_mode=True)
        assert result(here.pid.remote()) == os.getpid() != result(there.pid.remote())
        assert sorted(serve.status().applications) == ["here", "there"]
        assert result(serve.get_app_handle("there").pid.remote()) != os.getpid()
        assert result(serve.get_deployment_handle("Where", "here").pid.remote()) == os.getpid()
        serve.delete("here")
        assert list(serve.status().applications) == ["there"]
        with pytest.raises(RayServeException, match="does not exist"):
            serve.get_app_handle("here")

    await anyio.to_thread.run_sync(script)


async def test_an_application_moves_between_this_process_and_an_instance(daemon: Instance) -> None:
    def script() -> None:
        here = serve.run(Where.bind(), _local_testing_mode=True)
        assert result(here.pid.remote()) == os.getpid()
        serve.run(Where.bind())
        assert result(here.pid.remote()) != os.getpid()
        serve.run(Where.bind(), _local_testing_mode=True)
        assert result(here.pid.remote()) == os.getpid()
        serve.delete("default")
        assert result(here.pid.remote()) != os.getpid()

    await anyio.to_thread.run_sync(script)


async def test_shutting_local_applications_down_leaves_an_instance_alone_that_was_not_used(
    daemon: Instance,
) -> None:
    await anyio.to_thread.run_sync(lambda: serve.run(Where.bind(), _local_testing_mode=True))
    await anyio.to_thread.run_sync(serve.shutdown)
    assert (await daemon.status()).applications == {}  # it answers


# --- the end of the interpreter ------------------------------------------------------------------


def run_script(folder: Path, text: str, *, returncode: int = 0) -> str:
    """Run a script of a test's own and return what it printed."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    temporary = folder / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary), "SERVE_LITE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
    )
    assert done.returncode == returncode, done.stdout + done.stderr
    assert os.listdir(temporary) == []
    return done.stdout + done.stderr


LOCAL = """
    import asyncio, os, sys, threading
    import serve_lite as serve

    @serve.deployment
    class Ends:
        @serve.multiplexed
        async def get(self, model_id):
            return Model()

        async def use(self):
            await self.get("m")

        async def __del__(self):
            await asyncio.to_thread(print, "Ends.__del__", flush=True)

    class Model:
        def __del__(self):
            print("unloaded", flush=True)

    handle = serve.run(Ends.bind(), _local_testing_mode=True)
    handle.use.remote().result(30)
"""


@pytest.mark.parametrize(("last", "code"), [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_destructors_run_when_a_script_ends(tmp_path: Path, last: str, code: int) -> None:
    said = run_script(tmp_path, LOCAL + "    " + last, returncode=code)
    assert said.count("Ends.__del__") == 1 and said.count("unloaded") == 1, said
    assert "rror" not in said.replace("ZeroDivisionError", ""), said


def test_nothing_of_it_runs_in_a_forked_child(tmp_path: Path) -> None:
    said = run_script(
        tmp_path,
        LOCAL
        + """
    child = os.fork()
    if child == 0:
        assert serve.status().applications == {}
        try:
            handle.use.remote()
        except serve.exceptions.RayServeException as error:
            print("child:", error, flush=True)
        again = serve.run(Ends.bind(), _local_testing_mode=True)
        again.use.remote().result(30)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    handle.use.remote().result(30)
    """,
    )
    assert "child: Serve is not running here" in said
    assert said.count("Ends.__del__") == 2, said


def test_the_instance_of_the_tests_ends_with_the_script(tmp_path: Path) -> None:
    said = run_script(
        tmp_path,
        """
        import os
        import serve_lite as serve
        from serve_lite import testing

        @serve.deployment
        class Hello:
            def __call__(self):
                return "hello"

        with testing.running(Hello.bind()) as app:
            print(app.client.get("/").text)
            print(app.instance.home)
        """,
    )
    assert said.startswith("hello\n") and str(tmp_path / "tmp") in said


def test_unittest_needs_no_pytest(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").write_text(
        "raise ModuleNotFoundError('No module named pytest', name='pytest')\n"
    )
    said = run_script(
        tmp_path,
        """
        import sys, unittest
        import serve_lite as serve
        from serve_lite import testing

        @serve.deployment
        class Hello:
            def __call__(self):
                return "hello"

        class HelloTest(unittest.TestCase):
            def test_hello(self):
                with testing.running(Hello.bind(), local=True) as app:
                    self.assertEqual(app.client.get("/").text, "hello")
                    self.assertEqual(app.handle.remote().result(30), "hello")

        unittest.main()
        """,
    )
    assert "OK" in said and "Ran 1 test" in said
