"""Which files `serve run --reload` watches, and which of them have changed.

Python files and the config file, nothing else: an application that writes into its own folder must not be deployed
again for it. Hidden folders, virtual environments and installed packages are nobody's to edit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import anyio
import anyio.abc
import msgspec
import watchfiles

from serve_lite.exceptions import ServeLiteError
from serve_lite_cli.plan import Plan

#: Folders that hold other people's code, or none.
NOT_OURS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})

#: Changes that come this close together are one: an editor, or git, writes several files.
DEBOUNCE_MS = 200

#: Also how long after its start a watcher says that it watches.
ANSWER_AFTER_MS = 100


class WatchError(ServeLiteError):
    """The system does not let us watch the files."""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What to watch."""

    code_folders: tuple[str, ...]  #: Python files in them, at any depth
    config_file: str = ""

    @classmethod
    def of(cls, plan: Plan) -> Watched:
        """Return what `plan` was made from."""
        folders = sorted({os.path.realpath(folder) for folder in plan.code_folders})
        return cls(code_folders=tuple(folders), config_file=plan.config_file)

    @property
    def outer_folders(self) -> tuple[str, ...]:
        """The code folders that are in no other one."""
        folders = self.code_folders
        return tuple(f for f in folders if not any(is_inside(f, other) for other in folders if other != f))

    def is_relevant(self, path: str) -> bool:
        """Tell whether a file that has changed is one to deploy again for."""
        if path == self.config_file:
            return True
        return path.endswith(".py") and any(is_code(path, f) for f in self.code_folders if is_inside(path, f))


def is_inside(path: str, folder: str) -> bool:
    """Tell whether `path` is `folder` or something in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_code(path: str, folder: str) -> bool:
    """Tell whether a file is the user's code, as far as its way down from `folder` tells.

    What stands above `folder` says nothing: it was chosen by the user.
    """
    parts = os.path.relpath(path, folder).split(os.sep)
    if any(part.startswith(".") or part in NOT_OURS for part in parts):
        return False
    above = [os.path.join(folder, *parts[:depth]) for depth in range(1, len(parts))]
    return not any(os.path.exists(os.path.join(place, "pyvenv.cfg")) for place in above)


class Changes:
    """The files that have changed and that nobody has taken yet."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._come = anyio.Event()
        self._failure: WatchError | None = None

    def add(self, paths: Iterable[str]) -> None:
        """Note that these have changed."""
        self._paths.update(paths)
        if self._paths:
            self._come.set()

    def fail(self, error: WatchError) -> None:
        """Note that no more changes will be seen."""
        self._failure = error
        self._come.set()

    async def come(self) -> None:
        """Return once there is something to take. Ends with an edit of the user's: no deadline."""
        await self._come.wait()

    def take(self) -> list[str]:
        """Return the files, in order, and forget them.

        Raises:
            WatchError: files are not watched any more.
        """
        if self._failure is not None:
            raise self._failure
        paths, self._paths = sorted(self._paths), set()
        self._come = anyio.Event()
        return paths


async def watch(
    watched: Watched,
    changes: Changes,
    *,
    task_status: anyio.abc.TaskStatus[anyio.CancelScope] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Add to `changes` until the scope is cancelled that is reported; what changes after that is not missed.

    Raises:
        WatchError: the system refuses.
    """
    failure: WatchError | None = None
    async with anyio.create_task_group() as group:
        try:
            if watched.code_folders:
                await group.start(_watch_folders, watched, watched.outer_folders, True, changes)
            folder = os.path.dirname(watched.config_file)
            if folder and not any(is_inside(folder, code) for code in watched.code_folders):
                await group.start(_watch_folders, watched, (folder,), False, changes)
            task_status.started(group.cancel_scope)
        except WatchError as error:
            failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _watch_folders(
    watched: Watched,
    folders: tuple[str, ...],
    is_recursive: bool,
    changes: Changes,
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    is_started = False
    if missing := [
        folder for folder in folders if not os.path.isdir(folder)
    ]:  # the watcher would wait in silence
        raise WatchError(f"Cannot watch the files in {', '.join(missing)}: there is no such folder.")
    try:
        # Yields when nothing has happened for a while: the first time, that says that it watches.
        async for found in watchfiles.awatch(
            *folders,
            watch_filter=lambda _, path: watched.is_relevant(path),
            debounce=DEBOUNCE_MS,
            rust_timeout=ANSWER_AFTER_MS,
            yield_on_timeout=True,
            recursive=is_recursive,
            ignore_permission_denied=True,
        ):
            changes.add(path for _, path in found)
            if not is_started:
                is_started = True
                task_status.started()
    except (OSError, RuntimeError) as error:  # RuntimeError: what the watcher's own errors are
        failure = WatchError(
            f"Cannot watch the files in {', '.join(folders)}: {error}. If there are too many for the system, raise "
            "fs.inotify.max_user_watches, or name a smaller folder with --app-dir."
        )
        if not is_started:
            raise failure from error
        changes.fail(failure)
