"""An application named by its import path, as the document that `serve deploy` sends. Nothing is imported here.

Unlike `serve run`, which talks to the instance beside it, this goes through REST: all that the instance has to know is
in the document, so that `serve config` gives it back and a file made of it deploys the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve_lite.admin.documents import BASE_DIR_HEADER, deploy_request
from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.plan import absolute_env, check_import_path, parse_arguments

#: How errors call the parts of the document that come from the command line.
PLACE = "applications[0]."


class NamedApplication(msgspec.Struct, frozen=True, kw_only=True):
    """One application by its import path, with everything absolute."""

    document: dict[str, Any]
    names: list[str]
    is_single: bool = False  #: the document is of today's kind, with `applications:`

    @property
    def headers(self) -> dict[str, str]:
        """What the control plane has to know beside the document."""
        return {BASE_DIR_HEADER: os.getcwd()}

    def explain(self, error: InvalidConfigError) -> InvalidConfigError:
        """Return `error` without the place in a document that the user has not written."""
        return InvalidConfigError(str(error).replace(PLACE, ""))


def name_application(
    import_path: str,
    arguments: Sequence[str],
    *,
    name: str,
    route_prefix: str,
    app_dir: str | None,
    runtime_env: Mapping[str, Any],
) -> NamedApplication:
    """Return the application at `import_path`, as a document.

    The module is looked for in the `working_dir`, which is `app_dir` unless the environment names one.

    Raises:
        InvalidConfigError: a value is malformed, or two of them contradict each other; the error names it.
    """
    check_import_path(import_path)
    given: dict[str, Any] = {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": import_path,
        "runtime_env": _environment(app_dir, absolute_env(runtime_env)),
        "args": parse_arguments(arguments),
    }
    application = {key: value for key, value in given.items() if value}  # the rest has its defaults
    document = {"applications": [application]}
    named = NamedApplication(document=document, names=[name or "default"])
    try:
        deploy_request(document, base_dir=os.getcwd())
    except InvalidConfigError as error:
        raise named.explain(error) from error
    return named


def _environment(app_dir: str | None, runtime_env: dict[str, Any]) -> dict[str, Any]:
    """Return the environment with a `working_dir`."""
    folder = os.path.abspath(os.path.expanduser(app_dir or "."))
    if not os.path.isdir(folder):
        raise InvalidConfigError(f"--app-dir is {app_dir!r}, which is not a directory.")
    stated = runtime_env.get("working_dir")
    if stated is None:
        return {**runtime_env, "working_dir": folder}
    if app_dir is not None and folder != stated:
        raise InvalidConfigError(
            f"--app-dir is {folder!r} and the working_dir is {stated!r}. A deployed application has one directory, "
            "which it is looked for and run in: give one of them."
        )
    return runtime_env
