"""What a deploy becomes while parts of its environment are to be prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

import serve_lite as serve
from serve_lite.config import DeploymentConfig
from serve_lite.controller.goals import accept_build, accept_deploy, known_build, reject_build
from serve_lite.graph import build_deployments, with_runtime_envs
from serve_lite.runtime_env.merging import code_environment
from serve_lite.shipping import dump_code, load_code
from serve_lite.state.environment import Archive, Packages, RuntimeEnv
from serve_lite.state.goal import AppGoal, AppSubmission, BuildRequest, BuildResult, DeploymentSpec, Goal
from serve_lite.wire.messages import DeployRequest

ONE = RuntimeEnv(packages=Packages(installer="pip", requirements=("a",)))
TWO = RuntimeEnv(packages=Packages(installer="pip", requirements=("b",)))
SPECS = (
    DeploymentSpec(name="A", config=DeploymentConfig(), code=b"a", init=b""),
    DeploymentSpec(name="B", config=DeploymentConfig(), code=b"b", init=b"", is_ingress=True),
)


def document_app(env: RuntimeEnv = RuntimeEnv(), **own: RuntimeEnv) -> AppSubmission:
    """Return an application of a config file, with deployments' own environments by name."""
    return AppSubmission(
        source="declarative",
        environment=code_environment(env),
        runtime_env=env,
        own_runtime_envs=own,
        build=BuildRequest(app_name="default", import_path="shop:app"),
        overrides=tuple({"name": name, "ray_actor_options": {}} for name in own),
        code_version="c1",
    )


def script_app(*specs: DeploymentSpec) -> AppSubmission:
    return AppSubmission(deployments=specs)


def deploy(goal: Goal, app: AppSubmission) -> Goal:
    return accept_deploy(goal, DeployRequest(apps=[app]), now=1.0, alive=())


def built(goal: Goal, result: BuildResult) -> Goal:
    return accept_build(goal, "default", goal.revision, result, ())


def app_of(goal: Goal) -> AppGoal:
    return goal.apps["default"]


def versions(goal: Goal) -> dict[str, str]:
    return {d.id.name: d.version for d in app_of(goal).deployments}


def test_a_scripts_application_waits_for_its_environment_with_its_payload() -> None:
    spec = msgspec.structs.replace(SPECS[1], runtime_env=ONE)
    goal = deploy(Goal(), script_app(SPECS[0], spec))
    assert app_of(goal).is_building
    assert app_of(goal).deployments == ()
    known = known_build(app_of(goal))
    assert known == BuildResult(deployments=(SPECS[0], spec))

    done = built(goal, known)
    assert [len(d.environment.parts) for d in app_of(done).deployments] == [0, 1]
    assert app_of(done).submission.deployments == ()
    failed = reject_build(goal, "default", goal.revision, "no such package")
    assert app_of(failed).build_error == "no such package"
    assert app_of(failed).submission.deployments == ()


def test_a_script_without_anything_to_prepare_runs_at_once() -> None:
    goal = deploy(Goal(), script_app(*SPECS))
    assert not app_of(goal).is_building
    assert len(app_of(goal).deployments) == 2
    again = msgspec.structs.replace(SPECS[1], runtime_env=RuntimeEnv(env_vars={"A": "1"}))
    assert not app_of(deploy(goal, script_app(SPECS[0], again))).is_building


def test_an_environment_that_changes_alone_is_prepared_without_an_importer() -> None:
    goal = deploy(Goal(), document_app(B=ONE))
    assert known_build(app_of(goal)) is None
    goal = built(goal, BuildResult(deployments=SPECS))

    changed = deploy(goal, document_app(B=TWO))
    assert app_of(changed).is_building
    assert versions(changed) == versions(goal)  # what ran runs on meanwhile
    known = known_build(app_of(changed))
    assert known == BuildResult(deployments=SPECS)
    done = built(changed, known)
    assert versions(done)["A"] == versions(goal)["A"]
    assert versions(done)["B"] != versions(goal)["B"]

    # Back to what is there already, or to less: nothing to wait for.
    assert not app_of(deploy(done, document_app(B=TWO))).is_building
    assert not app_of(deploy(done, document_app())).is_building


def test_what_a_document_says_replaces_the_codes_as_a_whole() -> None:
    specs: Any = (SPECS[0], msgspec.structs.replace(SPECS[1], runtime_env=ONE))
    by_code = built(deploy(Goal(), document_app()), BuildResult(deployments=specs))
    by_document = built(deploy(Goal(), document_app(B=RuntimeEnv())), BuildResult(deployments=specs))
    assert [d.environment.parts != () for d in app_of(by_code).deployments] == [False, True]
    assert [d.environment.parts != () for d in app_of(by_document).deployments] == [False, False]


def test_older_versions_of_a_deployment_stay_the_same() -> None:
    """A release that knows of parts must not restart what one that did not has started."""
    goal = built(deploy(Goal(), document_app()), BuildResult(deployments=SPECS))
    encoded = msgspec.json.encode(app_of(goal).deployments[0].environment)
    assert encoded == b"{}"
    archive = RuntimeEnv(working_dir=Archive(uri="https://h/a.zip"))
    stored = msgspec.msgpack.encode(deploy(Goal(), document_app(archive, B=ONE)))
    assert msgspec.msgpack.decode(stored, type=Goal) == deploy(Goal(), document_app(archive, B=ONE))


def test_code_by_value_says_which_python_it_needs() -> None:
    def local() -> int:
        return 3

    kind, value, _ = msgspec.msgpack.decode(dump_code(local))
    assert load_code(msgspec.msgpack.encode([kind, value]))() == 3  # of an older release
    try:
        load_code(msgspec.msgpack.encode([kind, value, [3, 99]]))
    except ImportError as error:
        assert "as Python 3.99 compiled it" in str(error)
    else:
        raise AssertionError("it was loaded")


def test_a_path_in_code_is_as_good_as_its_text(tmp_path: Path) -> None:
    @serve.deployment(ray_actor_options={"runtime_env": {"working_dir": tmp_path}})
    class Somewhere:
        pass

    [spec] = with_runtime_envs(build_deployments(Somewhere.bind()))
    assert spec.runtime_env == RuntimeEnv(working_dir=str(tmp_path))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=DeploymentSpec) == spec
