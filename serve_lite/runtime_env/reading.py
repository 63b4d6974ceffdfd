"""Reading a `runtime_env`: what is in it is checked as far as a look at the disk can tell.

Three groups of keys: those that have an effect; those that only matter to a cluster, which are accepted with a
notice; and those that would change which code runs and do not exist here, which are refused: running the wrong
code is worse than running none. Requirements are read in `requirements.py`. What becomes of it: `merging.py`.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from serve_lite.checks import invalid, unknown_key, wrong
from serve_lite.exceptions import InvalidConfigError
from serve_lite.runtime_env.requirements import read_packages
from serve_lite.state.environment import Archive, Packages, RuntimeEnv, without_credentials

SUPPORTED = ("env_vars", "working_dir", "py_modules", "pip", "uv", "python", "py_executable")
CLUSTER_ONLY = ("config", "excludes", "eager_install")

#: Keys of Ray that have no counterpart here, with what to do instead.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "conda": "List the packages under pip or uv, or make the environment yourself and name its "
        "interpreter with python.",
        "container": "Replicas run on this machine as they are; start the whole instance in a container.",
        "image_uri": "Replicas run on this machine as they are; start the whole instance in a container.",
        "java_jars": "Only Python code is run here.",
        "worker_process_setup_hook": "Do it at the top of the application's module: every replica imports that.",
        "nsight": "Start the profiler on a replica's process; `serve status` names it.",
        "rocprof_sys": "Start the profiler on a replica's process; `serve status` names it.",
        "mpi": "A replica is one process on this machine.",
        "ray_debugger": "Have the code open a debugger of its own choice.",
    }
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHA256 = re.compile(r"sha256=([0-9A-Fa-f]{64})")
_WHAT_WORKS = "a local directory, a local .zip file, or the http(s) URL of a .zip file"

logger = logging.getLogger(__name__)


def read_runtime_env(
    runtime_env: Mapping[str, Any], where: str = "runtime_env", *, base_dir: str | None = None
) -> RuntimeEnv:
    """Return what `runtime_env` says.

    Args:
        where: its place in the document, for errors.
        base_dir: what relative paths are relative to; None: they are refused.

    Raises:
        InvalidConfigError: a key is unknown or does not exist here, or has a wrong value.
    """
    try:
        return _read(runtime_env, where, base_dir)
    except InvalidConfigError as error:
        cleaned = without_credentials(str(error))
        if cleaned == str(error):
            raise
        raise invalid(error.path or where, cleaned) from None


def _read(runtime_env: Mapping[str, Any], where: str, base_dir: str | None) -> RuntimeEnv:
    given = {key: value for key, value in runtime_env.items() if value is not None}
    for key in given:
        _check_key(key, where)
    working_dir = given.get("working_dir")
    modules = given.get("py_modules")
    if modules is not None and not isinstance(modules, list | tuple):
        raise wrong(modules, f"{where}.py_modules", f"a list; each item is {_WHAT_WORKS}", wrong_type=True)
    return RuntimeEnv(
        working_dir=None
        if working_dir is None
        else _source(working_dir, f"{where}.working_dir", base_dir, is_module=False),
        py_modules=None
        if modules is None
        else tuple(
            _source(module, f"{where}.py_modules[{i}]", base_dir, is_module=True)
            for i, module in enumerate(modules)
        ),
        env_vars=_variables(given.get("env_vars", {}), f"{where}.env_vars"),
        python=_python(given, where, base_dir),
        packages=_packages(given, where, base_dir),
    )


def _check_key(key: str, where: str) -> None:
    if key in SUPPORTED:
        return
    if key in CLUSTER_ONLY:
        logger.info("%s.%s is accepted and has no effect on one machine.", where, key)
        return
    if key in REFUSED:
        raise invalid(f"{where}.{key}", f"{where}.{key} does not exist here. {REFUSED[key]}")
    raise unknown_key(key, where, (*SUPPORTED, *REFUSED, *CLUSTER_ONLY), thing="a runtime_env")


# --- folders and archives -----------------------------------------------------------------------


def _source(value: Any, where: str, base_dir: str | None, *, is_module: bool) -> str | Archive:
    """Return the absolute path of a folder, or an archive."""
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise wrong(value, where, _WHAT_WORKS, wrong_type=True)
    text = str(value)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _local(text, where, base_dir, is_module=is_module)
    match scheme[1].lower():
        case "http" | "https":
            return _download(text, where, is_module=is_module)
        case "file":
            parts = urlsplit(text)
            if parts.netloc not in ("", "localhost") or not parts.path:
                raise _wrong_uri(text, where, "write file:///path, with three slashes")
            return _local(unquote(parts.path), where, None, is_module=is_module)
        case other:
            raise _wrong_uri(
                text,
                where,
                f"{other}:// cannot be read here; give {_WHAT_WORKS}. Object stores give out such URLs too, or copy "
                "the archive to this machine first",
            )


def _local(text: str, where: str, base_dir: str | None, *, is_module: bool) -> str | Archive:
    path = os.path.expanduser(text)
    if not os.path.isabs(path) and base_dir is None:
        raise wrong(text, where, "an absolute path, since this side does not know your directory")
    path = os.path.normpath(os.path.join(base_dir or "", path))
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise invalid(where, f"{where} is {text!r}, which does not exist; give {_WHAT_WORKS}.") from error
    if stat.S_ISDIR(found.st_mode):
        return path
    if path.endswith(".whl"):
        raise invalid(
            where, f"{where} is {text!r}, a wheel; list its path under pip or uv, which install it."
        )
    if not stat.S_ISREG(found.st_mode) or not path.lower().endswith(".zip"):
        raise invalid(where, f"{where} is {text!r}, which is not a directory; give {_WHAT_WORKS}.")
    return Archive(uri=path, is_module=is_module, size=found.st_size, mtime_ns=found.st_mtime_ns)


def _download(text: str, where: str, *, is_module: bool) -> Archive:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong_uri(text, where, f"that is not a URL ({error})") from error
    if not host or any(c.isspace() or not c.isprintable() for c in text):
        raise _wrong_uri(text, where, "that is not a URL")
    if not parts.path.lower().endswith(".zip"):
        raise _wrong_uri(text, where, "the URL's path must end with .zip")
    sha256 = _SHA256.fullmatch(parts.fragment) if parts.fragment else None
    if parts.fragment and sha256 is None:
        raise _wrong_uri(
            text, where, "after the # only sha256= and 64 hexadecimal digits may stand, the hash of the file"
        )
    return Archive(
        uri=parts._replace(fragment="").geturl(),
        sha256=sha256[1].lower() if sha256 else "",
        is_module=is_module,
    )


def _wrong_uri(text: str, where: str, why: str) -> Exception:
    return invalid(where, f"{where} is {text!r}: {why}.")


# --- the rest -----------------------------------------------------------------------------------


def _python(given: Mapping[str, Any], where: str, base_dir: str | None) -> str:
    names = [name for name in ("python", "py_executable") if name in given]
    if not names:
        return ""
    if len(names) == 2 and given["python"] != given["py_executable"]:
        raise invalid(
            f"{where}.py_executable",
            f"{where}.python and {where}.py_executable are two names for one thing; give one of them.",
        )
    value, where = given[names[0]], f"{where}.{names[0]}"
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise wrong(value, where, "the path of a Python interpreter", wrong_type=True)
    text = str(value)
    path = os.path.expanduser(text) if os.sep in text else shutil.which(text)
    if path is None:
        raise invalid(
            where, f"{where} is {text!r}, which is not on the PATH; give the path of a Python interpreter."
        )
    if not os.path.isabs(path) and base_dir is None:
        raise wrong(text, where, "an absolute path, since this side does not know your directory")
    path = os.path.abspath(os.path.join(base_dir or "", path))
    if not os.path.isfile(path):
        what = "is not a file" if os.path.exists(path) else "does not exist"
        hint = "; it is a path only, without arguments" if " " in text else ""
        raise invalid(
            where, f"{where} is {text!r}, which {what}; give the path of a Python interpreter{hint}."
        )
    if not os.access(path, os.X_OK):
        raise invalid(where, f"{where} is {text!r}, which may not be executed (see its mode, `ls -l`).")
    return path


def _packages(given: Mapping[str, Any], where: str, base_dir: str | None) -> Packages | None:
    if "pip" in given and "uv" in given:
        raise invalid(
            f"{where}.uv",
            f"{where} has both pip and uv, and only one of them can install the packages; give one.",
        )
    if "pip" in given:
        return read_packages("pip", given["pip"], f"{where}.pip", base_dir)
    if "uv" in given:
        return read_packages("uv", given["uv"], f"{where}.uv", base_dir)
    return None


def _variables(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise wrong(value, where, "a mapping of names to texts", wrong_type=True)
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise invalid(where, f"{where}: {name!r} cannot be the name of an environment variable.")
        if not isinstance(text, str) or "\0" in text:
            quoted = (
                f", as in {name}: {str(text)!r}" if isinstance(text, int | float) else ""
            )  # else it may be a secret
            raise wrong(text, f"{where}.{name}", f"a text{quoted}", wrong_type=True)
    return dict(value)
