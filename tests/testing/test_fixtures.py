"""The pytest plugin, in projects of its own: real runs of pytest in which a developer's tests use the fixtures."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.processes

APP = """
    import os
    import serve_lite as serve

    @serve.deployment
    class Greeter:
        def __init__(self, word="Hello"):
            self.word = word

        def greet(self, name):
            return f"{self.word}, {name}!"

        def pid(self):
            return os.getpid()

        async def __call__(self, request):
            return self.greet(request.query_params.get("name", "world"))

    @serve.deployment
    class Broken:
        def __init__(self):
            raise ValueError("the weights are missing")

    app = Greeter.bind()
    broken = Broken.bind()

    def build(args: dict):
        return Greeter.bind(args["word"])
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with an application, and a home that no test of it may use."""
    home = pytester.path / "developers-home"
    monkeypatch.setenv("SERVE_LITE_HOME", str(home))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(greeting=APP)
    yield pytester
    assert not home.exists()


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the project's tests in a process of their own; fail if it leaves processes or directories behind."""
    temporary = project.path / "tmp"
    temporary.mkdir(exist_ok=True)
    code = (
        "import os, sys, pytest, psutil, tempfile\n"
        f"tempfile.tempdir = {str(temporary)!r}\n"
        "code = pytest.main(sys.argv[1:])\n"
        "left = [p.cmdline() for p in psutil.Process().children(recursive=True)]\n"
        "left += [n for n in os.listdir(tempfile.tempdir) if n.startswith('serve-lite')]\n"
        "print('LEFT', left)\n"
        "sys.exit(code)\n"
    )
    found = project.run(sys.executable, "-c", code, "-p", "no:cacheprovider", *options, timeout=100)
    found.stdout.fnmatch_lines(["LEFT []"])
    return found


def test_the_plugin_is_installed_and_loading_it_imports_next_to_nothing() -> None:
    (found,) = [e for e in entry_points(group="pytest11") if e.name == "serve_lite"]
    assert found.value == "serve_lite.testing"
    code = (
        "import sys, pytest, asyncio\n"
        "before = set(sys.modules)\n"
        "import serve_lite.testing\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['serve_lite', 'serve_lite.testing']"


def test_a_run_that_does_not_use_the_fixtures_does_not_load_serve(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_other="""
        import sys

        def test_other():
            assert {m for m in sys.modules if m.startswith("serve_lite")} == {"serve_lite", "serve_lite.testing"}
            assert "httpx" not in sys.modules
        """
    )
    run(project).assert_outcomes(passed=1)


def test_applications_are_deployed_asked_and_removed(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_greeting="""
        import os
        import pytest
        import serve_lite as serve
        from greeting import Greeter, app, build

        homes = set()

        @pytest.mark.parametrize("local", [True, False])
        @pytest.mark.parametrize("target", [app, "greeting:app", "greeting.app"])
        def test_handle_and_http(serve_app, serve_client, local, target):
            assert serve.status().applications == {}
            handle = serve_app(target, local=local)
            assert handle.greet.remote("you").result(30) == "Hello, you!"
            assert (handle.pid.remote().result(30) == os.getpid()) == local
            answer = serve_client.get("/", params={"name": "there"})
            assert (answer.status_code, answer.text) == (200, "Hello, there!")
            assert answer.headers["x-request-id"]
            assert serve_client.get("/-/routes").json() == {"/": "default"}

        @pytest.mark.parametrize("local", [True, False])
        def test_names_prefixes_and_builders(serve_app, serve_client, local):
            serve_app(build, name="a", route_prefix="/a", local=local, args={"word": "Ah"})
            serve_app("greeting:build", name="b", route_prefix="/b", local=local, args={"word": "Bye"})
            assert serve_client.get("/a").text == "Ah, world!"
            assert serve_client.get("/b").text == "Bye, world!"
            assert serve_client.get("/").status_code == 404

        def test_facts(serve_app, serve_client, serve_instance):
            serve_app(app)
            assert str(serve_client.base_url) == serve_instance.http_address + "/"
            assert serve.status().applications["default"].status == "RUNNING"
            assert os.environ["SERVE_LITE_HOME"] == serve_instance.home
            assert "Greeter" in serve_instance.logs("Greeter")
            homes.add(serve_instance.home)

        def test_a_test_may_use_the_ordinary_api_on_the_instance(serve_instance):
            serve.run(app, name="left behind")

        def test_the_instance_is_the_same_and_empty(serve_instance):
            assert homes == {serve_instance.home}
            assert serve.status().applications == {}
        """
    )
    run(project, "-q").assert_outcomes(passed=11)


def test_an_instance_of_the_developers_is_neither_used_nor_touched(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_home="""
        import os
        import serve_lite as serve

        def test_one(serve_app):
            serve_app("greeting:app")
            assert os.environ["SERVE_LITE_HOME"] != os.environ["DEVELOPERS_HOME"]

        def test_two(serve_app):
            serve_app("greeting:app", local=True)
            assert os.environ["SERVE_LITE_HOME"] == os.environ["DEVELOPERS_HOME"]
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEVELOPERS_HOME", str(project.path / "developers-home"))
        run(project).assert_outcomes(passed=2)


@pytest.mark.parametrize("local", [True, False])
def test_the_output_of_a_failed_deploy_ends_with_the_users_exception(
    project: pytest.Pytester, local: bool
) -> None:
    project.makepyfile(
        test_broken=f"""
        def test_broken(serve_app):
            serve_app("greeting:broken", local={local})

        def test_the_next_one(serve_app):
            assert serve_app("greeting:app", local={local}).greet.remote("you").result(30) == "Hello, you!"
        """
    )
    found = run(project, "--tb=long")
    found.assert_outcomes(passed=1, failed=1)
    errors = [line for line in found.outlines if line.startswith("E  ")]
    assert errors[-1].startswith("E ") and "ValueError: the weights are missing" in errors[-1]
    found.stdout.fnmatch_lines(["*greeting.py*, line *" if not local else "greeting.py:*: ValueError"])
    found.stdout.no_fnmatch_line("*serve_lite/engines*")


@pytest.mark.parametrize("local", [True, False])
def test_async_tests_use_an_async_client_with_any_loop(project: pytest.Pytester, local: bool) -> None:
    project.makepyfile(
        test_async=f"""
        import asyncio
        import pytest

        async def ask(serve_app, serve_async_client):
            handle = serve_app("greeting:app", local={local})
            answers = await asyncio.gather(*(serve_async_client.get(f"/?name={{n}}") for n in range(5)))
            assert [a.text for a in answers] == [f"Hello, {{n}}!" for n in range(5)]
            assert await handle.greet.remote("you") == "Hello, you!"
            async with serve_async_client.stream("GET", "/") as answer:
                assert await answer.aread() == b"Hello, world!"

        @pytest.mark.anyio
        async def test_with_anyio(serve_app, serve_async_client):
            await ask(serve_app, serve_async_client)

        def test_with_a_loop_of_its_own(serve_app, serve_async_client):
            asyncio.run(ask(serve_app, serve_async_client))

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """
    )
    run(project, "-W", "error").assert_outcomes(passed=2)


def test_a_suite_survives_tests_that_shut_the_instance_down_or_kill_it(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_rude="""
        import os, signal
        import psutil
        import pytest
        import serve_lite as serve

        def keepers():
            return [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]

        @pytest.mark.parametrize("rude", ["shutdown", "start again", "kill", "nothing"])
        def test_rude(serve_app, serve_client, rude):
            serve_app("greeting:app")
            assert serve_client.get("/").text == "Hello, world!"
            if rude in ("shutdown", "start again"):
                serve.shutdown()
            if rude == "start again":
                serve.start()
            if rude == "kill":
                (keeper,) = keepers()
                for process in (keeper, *keeper.children(recursive=True)):
                    process.kill()
                keeper.wait(30)
        """
    )
    run(project).assert_outcomes(passed=4)


def test_local_mode_is_chosen_for_all_tests_by_the_environment(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_forced="""
        import os
        import serve_lite as serve

        def test_fixture(serve_app, serve_client):
            assert serve_app("greeting:app").pid.remote().result(30) == os.getpid()
            assert serve_client.get("/").text == "Hello, world!"

        def test_nothing_is_left(serve_client):
            assert serve.status().applications == {}
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", "1")
        run(project).assert_outcomes(passed=2)
