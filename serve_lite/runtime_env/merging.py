"""From what a `runtime_env` says to where and how code runs; an application's and a deployment's own as one.

Pure. What is still to be prepared is a part of the `CodeEnvironment`, and a placeholder in its paths
(`Archive.place`) stands for the folder that an archive becomes; `controller/environments.py` puts the real ones there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from serve_lite.state.environment import Archive, Interpreter, Packages, Part, RuntimeEnv
from serve_lite.state.goal import CodeEnvironment

#: Variables with these names are for the installer as much as for the code.
_INSTALLERS_OWN = ("PIP_", "UV_")


def code_environment(env: RuntimeEnv, *, base_dir: str | None = None) -> CodeEnvironment:
    """Return where and how the code of an application runs.

    Args:
        base_dir: working directory if the environment names none; None leaves the daemon's.
    """
    cwd = _place(env.working_dir) if env.working_dir is not None else base_dir or ""
    paths = [*([cwd] if cwd else []), *_module_paths(env)]
    return CodeEnvironment(
        cwd=cwd,
        sys_path=tuple(dict.fromkeys(paths)),
        env_vars=env.env_vars,
        parts=_parts([env.working_dir, *(env.py_modules or ())], env),
    )


def merged(parent: RuntimeEnv, child: RuntimeEnv) -> RuntimeEnv:
    """Return the environment of a deployment: its own keys replace the application's, variables one by one."""
    return RuntimeEnv(
        working_dir=parent.working_dir if child.working_dir is None else child.working_dir,
        py_modules=parent.py_modules if child.py_modules is None else child.py_modules,
        env_vars={**parent.env_vars, **child.env_vars},
        python=child.python or parent.python,
        packages=parent.packages if child.packages is None else child.packages,
    )


def own_environment(app: CodeEnvironment, parent: RuntimeEnv, own: RuntimeEnv) -> CodeEnvironment:
    """Return where and how the code of one deployment runs.

    What it gives itself is found first. The application's working directory can still be imported from, since
    its module, which the deployment was made in, may lie there.

    Args:
        app: the application's environment, with all that is on its path for other reasons.
        parent: what the application's `runtime_env` says.
        own: what the deployment's own says.
    """
    env = merged(parent, own)
    cwd = _place(own.working_dir) if own.working_dir is not None else app.cwd
    front = [cwd] if own.working_dir is not None else []
    rest = list(app.sys_path)
    if own.py_modules is not None:
        front += _module_paths(own)
        replaced = {path for path in _module_paths(parent) if path != app.cwd}
        rest = [path for path in rest if path not in replaced]
    sys_path = tuple(dict.fromkeys([*front, *rest]))
    sources = [s for e in (parent, own) for s in (e.working_dir, *(e.py_modules or ()))]
    used = {cwd, *sys_path}
    return msgspec.structs.replace(
        app,
        cwd=cwd,
        sys_path=sys_path,
        env_vars={**app.env_vars, **own.env_vars},
        parts=_parts([s for s in sources if isinstance(s, Archive) and s.place in used], env),
    )


def _parts(sources: Iterable[str | Archive | None], env: RuntimeEnv) -> tuple[Part, ...]:
    archives = dict.fromkeys(s for s in sources if isinstance(s, Archive))
    packages = env.packages if env.packages is not None and env.packages.requirements else None
    if packages is not None:
        packages = msgspec.structs.replace(packages, variables=_for_installer(env.env_vars, packages))
    if packages is None and not env.python:
        return tuple(archives)
    return (*archives, Interpreter(python=env.python, packages=packages))


def _for_installer(env_vars: dict[str, str], packages: Packages) -> tuple[tuple[str, str], ...]:
    """Return the variables that the installer is to see: those named for it, and those that a line mentions."""
    text = "\n".join((*packages.requirements, *packages.constraints))
    return tuple(
        (name, value)
        for name, value in sorted(env_vars.items())
        if name.startswith(_INSTALLERS_OWN) or f"${{{name}}}" in text
    )


def _place(source: str | Archive) -> str:
    return source if isinstance(source, str) else source.place


def _module_paths(env: RuntimeEnv) -> list[str]:
    """Return where `import` has to look for modules: beside a module's folder, as in Ray, or in an archive."""
    return [os.path.dirname(m) if isinstance(m, str) else m.place for m in env.py_modules or ()]
