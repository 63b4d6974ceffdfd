"""From a `runtime_env` to a `CodeEnvironment`: directories and variables that user code runs with.

Supported: `env_vars`, and local directories as `working_dir` and `py_modules`. What only matters to a
cluster is accepted with a notice. What would change which code runs, and is not there yet, is refused:
running the wrong code is worse than running none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from serve_lite.checks import invalid, unknown_key, wrong
from serve_lite.state.goal import CodeEnvironment

SUPPORTED = ("env_vars", "working_dir", "py_modules")
NOT_YET = (
    "pip", "uv", "conda", "container", "image_uri", "py_executable", "java_jars", "worker_process_setup_hook",
    "nsight", "rocprof_sys", "mpi", "ray_debugger",
)  # fmt: skip
CLUSTER_ONLY = ("config", "excludes", "eager_install")

logger = logging.getLogger(__name__)


def code_environment(
    runtime_env: Mapping[str, Any], where: str = "runtime_env", *, base_dir: str | None = None
) -> CodeEnvironment:
    """Return the environment that `runtime_env` describes.

    Args:
        where: its place in the document, for errors.
        base_dir: working directory if the environment names none; None leaves the daemon's.

    Raises:
        InvalidConfigError: a key is unknown, not supported yet, or has a wrong value.
    """
    for key in runtime_env:
        _check_key(key, where)
    cwd = base_dir or ""
    if runtime_env.get("working_dir") is not None:
        cwd = _directory(runtime_env["working_dir"], f"{where}.working_dir")
    modules = runtime_env.get("py_modules") or []
    if not isinstance(modules, list):
        raise wrong(modules, f"{where}.py_modules", "a list of local directories", wrong_type=True)
    folders = [_directory(m, f"{where}.py_modules[{i}]") for i, m in enumerate(modules)]
    # A module's directory is named, and its parent is where `import` has to look, as in Ray.
    parents = [os.path.dirname(folder) for folder in folders]
    return CodeEnvironment(
        cwd=cwd,
        sys_path=tuple(dict.fromkeys([*([cwd] if cwd else []), *parents])),
        env_vars=_variables(runtime_env.get("env_vars") or {}, f"{where}.env_vars"),
    )


def _check_key(key: str, where: str) -> None:
    if key in SUPPORTED:
        return
    if key in CLUSTER_ONLY:
        logger.info("%s.%s is accepted and has no effect on one machine.", where, key)
        return
    if key in NOT_YET:
        raise invalid(
            f"{where}.{key}",
            f"{where}.{key} is not supported yet; {', '.join(SUPPORTED[:-1])} and {SUPPORTED[-1]} are. "
            "Install packages into the environment that the instance was started from.",
        )
    raise unknown_key(key, where, (*SUPPORTED, *NOT_YET, *CLUSTER_ONLY), thing="a runtime_env")


def _directory(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise wrong(value, where, "the absolute path of a local directory", wrong_type=True)
    if "://" in value:
        raise invalid(
            where, f"{where} is {value!r}: remote URIs are not supported yet; give a local directory."
        )
    path = os.path.normpath(os.path.expanduser(value))
    if not os.path.isabs(path):
        raise wrong(value, where, "an absolute path, since this side does not know your directory")
    if not os.path.isdir(path):
        what = "is not a directory" if os.path.exists(path) else "does not exist"
        raise invalid(where, f"{where} is {value!r}, which {what}; give a local directory.")
    return path


def _variables(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(value, where, "a mapping of names to texts", wrong_type=True)
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise invalid(where, f"{where}: {name!r} cannot be the name of an environment variable.")
        if not isinstance(text, str) or "\0" in text:
            raise wrong(text, f"{where}.{name}", f"a text, as in {name}: {str(text)!r}", wrong_type=True)
    return dict(value)
