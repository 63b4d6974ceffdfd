"""Environments of user code, prepared before it runs: archives unpacked, packages installed, interpreters looked at.

Each part is prepared by a child process of its own (`replica/preparing.py`) and then stays on the disk
(`environment_cache.py`), so the second time costs nothing. Whoever needs a part that is just being made waits for
it; when nobody waits any more, it is given up. A part that cannot be prepared is not tried again until the next
deploy: all who need it are told the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from serve_lite.controller.asking import ChildDiedError, ask_child
from serve_lite.controller.environment_cache import EnvironmentCache, in_folder
from serve_lite.controller.spawner import Spawner
from serve_lite.exceptions import InstanceError, InvalidConfigError, RayServeException
from serve_lite.state.environment import Archive, Part
from serve_lite.state.goal import CodeEnvironment
from serve_lite.wire.spawning import MAKING, ArchiveLimits, Prepared, PrepareReply, PrepareRequest

logger = logging.getLogger(__name__)

KEPT = 8  #: parts that nothing uses any more and that stay for the next time


class RuntimeEnvError(RayServeException):
    """A `runtime_env` cannot be prepared; the message is for its author."""


class Environments:
    """Prepares environments, each part once.

    Lifetime: work is done in `group`; when that is cancelled, preparations and all that they started end.
    """

    def __init__(
        self,
        group: anyio.abc.TaskGroup,
        spawner: Spawner,
        cache: EnvironmentCache,
        limits: ArchiveLimits,
    ) -> None:
        self._group, self._spawner, self._cache, self._limits = group, spawner, cache, limits
        #: the environments that the goal uses, which are never removed; the controller tells
        self.wanted: Callable[[], Iterable[CodeEnvironment]] = lambda: ()
        self._making: dict[str, _Making] = {}  #: by key
        self._failed: dict[str, str] = {}  #: why, by key

    def remove_half_made(self) -> None:
        """Remove what a daemon that died was making, in the background. Before anything else is asked for."""
        for name in self._cache.half_made():
            self._group.start_soon(anyio.to_thread.run_sync, self._cache.discard, name)

    async def resolve(self, environment: CodeEnvironment) -> CodeEnvironment:
        """Return the environment with all of its parts there, and real paths in it.

        Has no deadline: packages may take as long as they take. On cancel, what nobody else waits for is given up.

        Raises:
            RuntimeEnvError: a part cannot be prepared.
            InstanceError: no process could be started for it.
        """
        if not environment.parts:
            return environment
        prepared: dict[Part, Prepared] = {}
        errors: list[Exception] = []

        async def one(part: Part) -> None:
            try:
                prepared[part] = await self._part(part)
            except (RuntimeEnvError, InstanceError) as error:
                errors.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for part in environment.parts:
                group.start_soon(one, part)
        if errors:
            raise errors[0]
        return with_prepared(environment, prepared, search_path=os.environ.get("PATH", os.defpath))

    def forget_failures(self) -> None:
        """Let everything be tried again: somebody has deployed."""
        self._failed.clear()

    async def prune(self) -> None:
        """Remove what nothing uses, but for a few that may be used again."""
        parts = {part for environment in self.wanted() for part in environment.parts}
        parts |= {making.part for making in self._making.values()}
        try:
            await anyio.to_thread.run_sync(self._cache.prune, parts)
        except OSError as error:
            logger.warning("unused environments cannot be removed: %s", error)

    async def _part(self, part: Part) -> Prepared:
        key, prepared = await anyio.to_thread.run_sync(self._cache.find, part)
        if prepared is not None:
            return prepared
        if key in self._failed:
            raise RuntimeEnvError(self._failed[key])
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(part)
            self._group.start_soon(self._make, key, making)
        making.waiting += 1
        try:
            await making.done.wait()
        finally:
            making.waiting -= 1
            if not making.waiting and not making.done.is_set():
                making.scope.cancel()
                self._forget(key, making)  # who asks now starts anew
        if making.error is not None:
            raise making.error
        assert making.prepared is not None
        return making.prepared

    async def _make(self, key: str, making: _Making) -> None:
        """Make one part; ends with its child."""
        try:
            with making.scope:
                # Another making may have ended since whoever asked has looked.
                _, making.prepared = await anyio.to_thread.run_sync(self._cache.find, making.part)
                if making.prepared is None:
                    making.prepared = await self._ask(key, making.part)
        except RuntimeEnvError as error:
            self._failed[key] = str(error)
            making.error = error
        except InstanceError as error:
            making.error = error
        except OSError as error:
            making.error = InstanceError(f"The environment cannot be prepared: {error}.")
        finally:
            making.done.set()
            self._forget(key, making)
        if making.prepared is not None:
            await self.prune()

    def _forget(self, key: str, making: _Making) -> None:
        if self._making.get(key) is making:
            del self._making[key]

    async def _ask(self, key: str, part: Part) -> Prepared:
        logger.info("preparing the environment %s: %s", key, _described(part))
        await anyio.to_thread.run_sync(self._cache.discard, key)
        log_path = self._spawner.log_path("environment", key)
        making = f"{key}{MAKING}{os.urandom(4).hex()}"
        request = PrepareRequest(
            part=part, folder=self._cache.folder, making=making, name=key, limits=self._limits
        )
        try:
            reply = await ask_child(
                lambda work: self._spawner.spawn_preparer(key, work, log_path),
                request,
                PrepareReply,
                "the process that prepared the environment",
                has_children=True,
            )
        except ChildDiedError as error:
            raise RuntimeEnvError(f"{error} (all it printed: {log_path})") from error
        finally:  # one that was killed could not; in a daemon that leaves, the next one's start does it
            self._group.start_soon(anyio.to_thread.run_sync, self._cache.discard, making)
        if reply.prepared is None:
            raise RuntimeEnvError(reply.failure)
        logger.info("the environment %s is prepared", key)
        return in_folder(reply.prepared, os.path.join(self._cache.folder, key))


class _Making:
    """One part that is being made, and those who wait for it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.waiting = 0
        self.prepared: Prepared | None = None
        self.error: RuntimeEnvError | InstanceError | None = None


def with_prepared(
    environment: CodeEnvironment, prepared: Mapping[Part, Prepared], *, search_path: str
) -> CodeEnvironment:
    """Return the environment with what its parts have become in their places. Pure.

    Args:
        search_path: where programs are looked for if the environment does not say; those of packages come first.
    """
    folders = {part.place: done.path for part, done in prepared.items() if isinstance(part, Archive)}
    python, package_folders, env_vars = environment.python, environment.package_folders, environment.env_vars
    for done in prepared.values():
        if done.python:
            python, package_folders = done.python, done.package_folders
        if done.scripts:
            env_vars = {**env_vars, "PATH": f"{done.scripts}{os.pathsep}{env_vars.get('PATH', search_path)}"}
    return msgspec.structs.replace(
        environment,
        cwd=folders.get(environment.cwd, environment.cwd),
        sys_path=tuple(folders.get(path, path) for path in environment.sys_path),
        env_vars=env_vars,
        python=python,
        package_folders=package_folders,
        parts=(),
    )


def settings_from(environ: Mapping[str, str]) -> tuple[ArchiveLimits, int]:
    """Return the limits of archives, and how many unused environments are kept, as variables of the instance say.

    Raises:
        InvalidConfigError: one of them is no number above zero (for the last: below zero).
    """
    limits = ArchiveLimits()
    return ArchiveLimits(
        download_bytes=_number(environ, "SERVE_LITE_ARCHIVE_MAX_BYTES", limits.download_bytes),
        unpacked_bytes=_number(environ, "SERVE_LITE_ARCHIVE_MAX_UNPACKED_BYTES", limits.unpacked_bytes),
        files=_number(environ, "SERVE_LITE_ARCHIVE_MAX_FILES", limits.files),
        timeout_s=float(_number(environ, "SERVE_LITE_ARCHIVE_TIMEOUT_S", int(limits.timeout_s))),
    ), _number(environ, "SERVE_LITE_KEPT_ENVIRONMENTS", KEPT, at_least=0)


def _number(environ: Mapping[str, str], name: str, default: int, *, at_least: int = 1) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) >= at_least):
        raise InvalidConfigError(f"{name} must be a whole number, at least {at_least}, not {text!r}.")
    return int(text)


def _described(part: Part) -> str:
    """Return what the log calls a part; without anything that may be a secret."""
    if isinstance(part, Archive):
        return "a file" if part.uri.startswith(os.sep) else "a download"
    if part.packages is None:
        return f"the interpreter {part.python}"
    return f"packages with {part.packages.installer} for {part.python or 'the own interpreter'}"
