"""Which files `serve run --reload` watches, what it says of them, and what it does about compiled ones."""

from __future__ import annotations

import compileall
from pathlib import Path

import anyio
import pytest

from serve_lite.policy.diff import AppPlan, DeploymentPlan
from serve_lite_cli.plan import Plan, plan_config_file, plan_import_path
from serve_lite_cli.reload import forget_bytecode, named, outcome
from serve_lite_cli.watching import Changes, Watched, WatchError, watch
from tests.instances import DEADLINE_S


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place whose own path has a hidden part, which says nothing about what is in it."""
    place = tmp_path / ".hidden" / "code"
    place.mkdir(parents=True)
    return place


def watched(folder: Path) -> Watched:
    return Watched(code_folders=(str(folder),), config_file=str(folder / "serve.yaml"))


@pytest.mark.parametrize("name", ["a.py", "pkg/b.py", "serve.yaml", "venv/c.py"])
def test_python_files_and_the_config_file_are_watched(folder: Path, name: str) -> None:
    assert watched(folder).is_relevant(str(folder / name))


@pytest.mark.parametrize(
    "name",
    [
        "data.txt",
        "other.yaml",
        "a.pyc",
        "__pycache__/a.py",
        ".git/hook.py",
        ".#a.py",
        "node_modules/x/a.py",
        "lib/site-packages/a.py",
        "../outside.py",
        "../code-too/a.py",
    ],
)
def test_other_files_are_not(folder: Path, name: str) -> None:
    place = folder.joinpath(*Path(name).parts)
    assert not watched(folder).is_relevant(str(place.parent.resolve() / place.name))


def test_a_virtual_environment_under_any_name_is_not(folder: Path) -> None:
    (folder / "venv").mkdir()
    (folder / "venv" / "pyvenv.cfg").touch()
    assert not watched(folder).is_relevant(str(folder / "venv" / "deep" / "c.py"))


def plan(app_dir: Path, **env: object) -> Plan:
    return plan_import_path(
        "main:app", {}, name="app", route_prefix="/", app_dir=str(app_dir), runtime_env=env
    )


def test_a_folder_inside_another_is_watched_with_it_and_is_code_all_the_same(folder: Path) -> None:
    inner = folder / ".deep" / "inner"
    inner.mkdir(parents=True)
    found = Watched.of(plan(folder, working_dir=str(inner)))
    assert found.outer_folders == (str(folder),)
    assert found.is_relevant(str(inner / "a.py"))
    assert not found.is_relevant(str(inner.parent / "a.py"))


def test_the_folder_of_the_application_its_working_dir_and_its_modules_hold_code(folder: Path) -> None:
    places = [folder / name for name in ("app", "work", "module")]
    for place in places:
        place.mkdir()
    app, work, module = map(str, places)
    assert Watched.of(plan(folder / "app", working_dir=work, py_modules=[module])).code_folders == tuple(
        sorted((app, work, module))
    )


def test_the_folder_of_a_config_file_holds_code_unless_each_application_names_another(folder: Path) -> None:
    (folder / "work").mkdir()
    config = folder / "serve.yaml"
    named_dir = "{name: a, route_prefix: /a, import_path: 'm:a', runtime_env: {working_dir: work}}"
    config.write_text(f"applications: [{named_dir}]")
    assert Watched.of(plan_config_file(str(config))) == Watched(
        code_folders=(str(folder / "work"),), config_file=str(config)
    )
    config.write_text(f"applications: [{named_dir}, {{name: b, route_prefix: /b, import_path: 'm:b'}}]")
    assert Watched.of(plan_config_file(str(config))).outer_folders == (str(folder),)


async def test_a_change_right_after_the_start_is_seen_and_taken_once(folder: Path) -> None:
    (folder / "code").mkdir()
    asked = Watched(code_folders=(str(folder / "code"),), config_file=str(folder / "serve.yaml"))
    changes = Changes()
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            scope = await group.start(watch, asked, changes)
            for name in ("code/data.txt", "code/a.py", "aside.py", "serve.yaml"):
                (folder / name).write_text("x")
            seen: set[str] = set()
            while len(seen) < 2:
                await changes.come()
                seen |= set(changes.take())
            assert seen == {str(folder / "code" / "a.py"), str(folder / "serve.yaml")}
            assert changes.take() == []

            (folder / "code" / "sub").mkdir()
            (folder / "code" / "a.py").rename(folder / "code" / "sub" / "b.py")
            await changes.come()
            scope.cancel()


async def test_a_folder_that_cannot_be_watched_is_one_error(folder: Path) -> None:
    async with anyio.create_task_group() as group:
        with pytest.raises(WatchError, match="no-such.*no such folder"):
            await group.start(watch, Watched(code_folders=(str(folder / "no-such"),)), Changes())


async def test_a_watcher_that_fails_later_is_told_to_whoever_takes(folder: Path) -> None:
    changes = Changes()
    changes.fail(WatchError("gone"))
    await changes.come()
    with pytest.raises(WatchError, match="gone"):
        changes.take()


def test_compiled_files_of_what_has_changed_are_removed_and_no_others(folder: Path) -> None:
    for name in ("a.py", "a_b.py", "data.txt"):
        (folder / name).write_text("")
    compileall.compile_dir(folder, quiet=1)
    compileall.compile_dir(folder, quiet=1, optimize=1)
    forget_bytecode([str(folder / name) for name in ("a.py", "data.txt", "gone.py")])
    left = sorted(path.name.partition(".")[0] for path in (folder / "__pycache__").iterdir())
    assert left == ["a_b", "a_b"]


def test_many_files_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert named([str(folder / "a.py"), "/x/b.py"]) == "a.py, /x/b.py"
    assert named([f"/x/{n}.py" for n in range(9)]) == "/x/0.py, /x/1.py, /x/2.py, /x/3.py, /x/4.py and 4 more"


def test_what_a_deploy_did_is_told_by_deployment() -> None:
    steps = {"A": "restart", "B": "nothing", "C": "scale", "D": "restart", "E": "remove"}
    deployments = {
        name: DeploymentPlan(action=action, replicas_before=1, replicas_after=2)
        for name, action in steps.items()
    }
    assert outcome("shop", AppPlan(action="update", deployments=deployments)) == (
        "Application 'shop' is up to date: replaced A, D; removed E; scaled C from 1 to 2; left alone B."
    )
