"""What `serve run` was asked for, as a request to an instance. Nothing is imported or started here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve_lite.exceptions import InvalidConfigError
from serve_lite.options import route_prefix as check_prefix
from serve_lite.state.environment import RuntimeEnv
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployRequest

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Applications to run and what the instance should listen on if it has to be started."""

    request: DeployRequest
    document: dict[str, Any] = {}  #: the config file, checked; it has options of the instance too
    config_name: str = ""  #: the config file as the user wrote it
    folder: str = ""  #: of the config file, where servicer functions are looked for too
    code_folders: tuple[str, ...] = ()  #: local folders that the applications' code is in
    config_file: str = ""  #: absolute

    @property
    def names(self) -> list[str]:
        """The applications, in the order given."""
        return [app.name for app in self.request.apps]


def plan_import_path(
    import_path: str,
    arguments: Mapping[str, str],
    *,
    name: str,
    route_prefix: str,
    app_dir: str,
    runtime_env: Mapping[str, Any],
) -> Plan:
    """Return the plan for one application that is named by its import path.

    The importer looks for it as a Python script in `app_dir` would: there first, then in the working directory
    of the environment, then among what is installed.

    Raises:
        InvalidConfigError: a value is malformed; the error names it.
    """
    check_import_path(import_path)
    if not name:
        raise InvalidConfigError("--name is empty; an application needs a name.")
    prefix = check_prefix(route_prefix, "--route-prefix")
    env, environment = environment_for(app_dir, runtime_env)
    app = AppSubmission(
        name=name,
        route_prefix=prefix,
        environment=environment,
        runtime_env=env,
        build=BuildRequest(app_name=name, import_path=import_path, args=dict(arguments)),
    )
    here = os.path.abspath(os.path.expanduser(app_dir))
    return Plan(
        request=DeployRequest(apps=[app]), code_folders=(here, *local_folders(absolute_env(runtime_env)))
    )


def plan_config_file(name: str) -> Plan:
    """Return the plan for the applications of a configuration file. Others that run are left alone.

    Raises:
        InvalidConfigError: the file or what is in it is wrong; says where.
    """
    from serve_lite_cli.submission import read_submission  # loads a YAML reader

    given = read_submission(name)
    given.tell_notice()
    document = given.document
    envs = [
        app.get("runtime_env") or {} for app in ([document] if given.is_single else document["applications"])
    ]
    base = () if all(env.get("working_dir") for env in envs) else (given.config.folder,)
    return Plan(
        request=msgspec.structs.replace(given.request, replace_declarative=False),
        document=given.document,
        config_name=name,
        folder=given.config.folder,
        code_folders=(*base, *(folder for env in envs for folder in local_folders(env))),
        config_file=os.path.join(given.config.folder, os.path.basename(os.path.realpath(given.config.name))),
    )


def environment_for(app_dir: str, runtime_env: Mapping[str, Any]) -> tuple[RuntimeEnv, CodeEnvironment]:
    """Return what the environment says, and where code is found and run: also in `app_dir` and this directory.

    Raises:
        InvalidConfigError: `app_dir` is no directory, or the runtime environment is wrong.
    """
    folder = os.path.abspath(os.path.expanduser(app_dir))
    if not os.path.isdir(folder):
        raise InvalidConfigError(f"--app-dir is {app_dir!r}, which is not a directory.")
    env, base = RuntimeEnv(), CodeEnvironment(cwd=os.getcwd())
    if runtime_env:
        from serve_lite.runtime_env.merging import code_environment  # most runs have no use for them
        from serve_lite.runtime_env.reading import read_runtime_env

        env = read_runtime_env(runtime_env, base_dir=os.getcwd())
        base = code_environment(env, base_dir=os.getcwd())
    return env, msgspec.structs.replace(base, sys_path=tuple(dict.fromkeys((folder, *base.sys_path))))


def local_folders(runtime_env: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the folders of this machine that an environment takes code from; its paths are absolute."""
    named = [runtime_env.get("working_dir"), *(runtime_env.get("py_modules") or ())]
    return tuple(name for name in named if isinstance(name, str) and os.path.isdir(name))


def absolute_env(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runtime environment with its local paths absolute, seen from this process's directory."""
    if not runtime_env:
        return {}
    from serve_lite_cli import files  # loads a YAML reader

    changed: dict[str, Any] = files.absolute_env(dict(runtime_env), os.getcwd())
    return changed


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Return `key=value` arguments of an application builder as a dict.

    Raises:
        InvalidConfigError: an argument has another form.
    """
    parsed = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not key or not equals or not value:
            raise InvalidConfigError(
                f"Invalid application argument '{argument}', must be of the form '<key>=<val>'."
            )
        parsed[key] = value
    return parsed


def read_runtime_env(path: str, text: str, working_dir: str) -> dict[str, Any]:
    """Return the runtime environment that the three options of `serve run` describe.

    Raises:
        InvalidConfigError: both `path` and `text` are given, or one of them holds no mapping.
    """
    if path and text:
        raise InvalidConfigError("Only one of --runtime-env and --runtime-env-json can be given.")
    env: Any = {}
    if text:
        try:
            env = json.loads(text)
        except ValueError as error:
            raise InvalidConfigError(f"--runtime-env-json is not valid JSON: {error}.") from error
    elif path:
        from serve_lite_cli.files import read_config  # loads a YAML reader

        config = read_config(path)
        config.refuse_duplicates()
        env = config.document
    if not isinstance(env, dict):
        raise InvalidConfigError(
            '--runtime-env-json must be a JSON object, like {"env_vars": {"NAME": "value"}}.'
        )
    return {**env, "working_dir": working_dir} if working_dir else env


def is_config_file(target: str) -> bool:
    """Tell whether what `serve run` was given is a configuration file.

    Raises:
        InvalidConfigError: it is called like one, and there is no such file.
    """
    if os.path.isfile(target):
        return True
    if target.endswith(CONFIG_SUFFIXES):
        raise InvalidConfigError(f"There is no config file {target!r} in {os.getcwd()}.")
    return False


def check_import_path(path: str) -> None:
    """Refuse what cannot be `module:attribute` or `module.attribute`."""
    separator = ":" if ":" in path else "."
    module, _, attribute = path.rpartition(separator)
    if not module or not attribute or ":" in module:
        raise InvalidConfigError(
            f"Got invalid import path {path!r}. It should look like 'module:app', where `app` in module.py is an "
            "application (made by .bind()) or a function that returns one."
        )
    if module.endswith(".py") or "/" in module:
        better = module.removesuffix(".py").strip("./").replace("/", ".")
        raise InvalidConfigError(
            f"Got invalid import path {path!r}: it names a file. Write '{better}:{attribute}', and --app-dir if "
            "the module is not in this directory."
        )
