"""From a configuration document to a `DeployRequest`. Used by the REST API and by `serve run FILE`.

`schema.py` knows what a document may hold; here is what only this machine can tell: whether the directories
are there, and which code version the applications have.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from serve_lite.checks import invalid, wrong
from serve_lite.config import AutoscalingPolicy, LoggingConfig
from serve_lite.runtime_env.merging import code_environment
from serve_lite.runtime_env.reading import read_runtime_env
from serve_lite.schema import ServeApplicationSchema, parse_application_document, parse_deploy_document
from serve_lite.state.environment import RuntimeEnv, digest
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.state.status import REDACTED
from serve_lite.wire.messages import DeployRequest

#: Request header with the folder that applications without a `working_dir` run in. The command line sends it,
#: since it knows where the file is; for clients that do not, it is the daemon's own folder.
BASE_DIR_HEADER = "serve-lite-base-dir"


def base_dir_of(headers: Mapping[str, str]) -> str | None:
    """Return the folder that a request names for applications without one; None if it names none.

    Raises:
        InvalidConfigError: it is not an absolute path.
    """
    folder = headers.get(BASE_DIR_HEADER)
    if folder is not None and (not os.path.isabs(folder) or "\0" in folder):
        raise wrong(folder, BASE_DIR_HEADER, "the absolute path of a folder")
    return folder


def is_single_app(document: Mapping[str, Any]) -> bool:
    """Tell whether a document is of the older kind that describes just one application."""
    return "import_path" in document and "applications" not in document


def deploy_request(
    document: dict[str, Any], *, base_dir: str | None = None, merge: bool = False, by_content: bool = False
) -> DeployRequest:
    """Return the request that makes a multi-application document the goal, or with `merge` a part of it.

    With `by_content` files are looked into again, and what has changed in them is a change like any other.

    Raises:
        InvalidConfigError: something in it is wrong; its `path` says what.
    """
    parsed = parse_deploy_document(document)
    apps = [
        _submission(app, f"applications[{i}].", base_dir, parsed.logging_config, is_reread=by_content)
        for i, app in enumerate(parsed.applications)
    ]
    return DeployRequest(apps=apps, replace_declarative=not merge, document=document, merge=merge)


def single_app_request(
    document: dict[str, Any], *, base_dir: str | None = None, by_content: bool = False
) -> DeployRequest:
    """Return the request that makes a single-application document the goal; its name is "default".

    Raises:
        InvalidConfigError: something in it is wrong, or it has a name.
    """
    app = parse_application_document(document)
    if app.is_set("name"):
        raise invalid(
            "name",
            "name: Specifying the name of an application is only allowed for apps that are listed in a multi-app "
            "config file, under `applications:`.",
        )
    submission = _submission(app, "", base_dir, is_reread=by_content)
    return DeployRequest(apps=[submission], replace_declarative=True, document=document)


def _submission(
    app: ServeApplicationSchema,
    where: str,
    base_dir: str | None,
    logs: LoggingConfig | None = None,
    *,
    is_reread: bool,
) -> AppSubmission:
    """Return one application; `where` is the prefix of paths into its part of the document."""
    _refuse_redacted(app.submitted, where.removesuffix("."))
    logs = app.logging_config or logs
    runtime_env = read_runtime_env(app.runtime_env, f"{where}runtime_env", base_dir=base_dir)
    environment = code_environment(runtime_env, base_dir=base_dir)
    return AppSubmission(
        name=app.name,
        route_prefix=app.route_prefix,
        source="declarative",
        environment=environment,
        runtime_env=runtime_env,
        own_runtime_envs=_own_runtime_envs(app, where, base_dir),
        build=BuildRequest(app_name=app.name, import_path=app.import_path, args=app.args, by_content=True),
        overrides=app.overrides,
        document=app.submitted,
        code_version=_code_version(app, base_dir, environment),
        is_reread=is_reread,
        logging_config=None if logs is None else logs.to_dict(),
        autoscaling_policy=None
        if app.autoscaling_policy is None
        else AutoscalingPolicy.from_value(app.autoscaling_policy, f"{where}autoscaling_policy"),
        external_scaler_enabled=app.external_scaler_enabled,
        rollback_on_failure=app.rollback_on_failure,
        require_api_key=app.require_api_key,
        rate_limit=app.rate_limit,
        client_rate_limit=app.client_rate_limit,
    )


def _code_version(app: ServeApplicationSchema, base_dir: str | None, environment: CodeEnvironment) -> str:
    """Return what changes exactly when the application has to be imported again.

    The folder counts where the document leaves it open: the same import path means other code there. So does
    what the document only names: the lines of a requirements file, the state of a zip file.
    """
    version = app.code_version()
    if environment.parts:
        version = hashlib.sha256(f"{version} {digest(environment.parts)}".encode()).hexdigest()
    if base_dir is None or app.runtime_env.get("working_dir"):
        return version
    return hashlib.sha256(f"{version} {base_dir}".encode()).hexdigest()


def _refuse_redacted(value: Any, where: str) -> None:
    """Refuse variables whose value is what our answers show in its place: what `serve config` gave back."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_redacted(item, f"{where}[{i}]")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{where}.{key}" if where else str(key)
            if key != "env_vars" or not isinstance(inner, Mapping):
                _refuse_redacted(inner, place)
                continue
            for name, text in inner.items():
                if text == REDACTED:
                    raise invalid(
                        f"{place}.{name}",
                        f"{place}.{name} is {REDACTED!r}, which answers show in place of a value; "
                        "write the value itself.",
                    )


def _own_runtime_envs(app: ServeApplicationSchema, where: str, base_dir: str | None) -> dict[str, RuntimeEnv]:
    """Return what deployments get for themselves, by name; `where` as in `_submission`."""
    own: dict[str, RuntimeEnv] = {}
    for i, override in enumerate(app.overrides):
        runtime_env: Mapping[str, Any] | None = (override.get("ray_actor_options") or {}).get("runtime_env")
        if runtime_env:
            place = f"{where}deployments[{i}].ray_actor_options.runtime_env"
            own[str(override["name"])] = read_runtime_env(runtime_env, place, base_dir=base_dir)
    return own
