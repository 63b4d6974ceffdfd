"""Cgroups of replicas: the kernel keeps each to the `memory` that it was given.

A replica that was given a part of the memory lives in a cgroup of its own with `memory.max`, if this process may make
such (`policy/cgroups.py` decides). The replica enters it before anything of the user runs (`replica/template.py`). If
it wants more, the kernel ends it and all that it started, and counts that, which tells this end from others. Where
cgroups may not be made, `memory.py` looks at what replicas occupy.

Nothing is touched before somebody asks for memory: then the processes that are in the cgroup that is parted move one
level down, as its children may only have limits if it has no processes itself.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from serve_lite.exceptions import InvalidConfigError
from serve_lite.policy.cgroups import (
    LEAF,
    Folder,
    Mount,
    NoParting,
    Parting,
    choose_base,
    count_of,
    folder_of,
    group_name,
    group_prefix,
    memberships,
    mounts,
    unified_mount,
)
from serve_lite.state.ids import ReplicaId, suffix_of

logger = logging.getLogger(__name__)

Choice = Literal["auto", "kernel", "watched"]

_MOVING_ROUNDS = 20  #: a process may fork while it is moved
_EMPTY_PATIENCE_S = 5.0  #: for killed processes to be gone from a cgroup
_LOOK_EVERY_S = 0.01


class ReplicaGroups:
    """Makes, knows and removes the cgroups of an instance's replicas.

    Lifetime: nothing to open or close. Cgroups of replicas that a daemon leaves running stay for the next one.

    Args:
        instance: its id, which is in the names.
        choice: "kernel" and "watched" leave no choice; "auto" is the kernel where that is possible.
        root: where /proc is found, for tests.
    """

    def __init__(self, instance: str, choice: Choice = "auto", root: Path = Path("/")) -> None:
        self._instance, self._choice, self._root = instance, choice, root
        self._found: Parting | NoParting | None = None
        self._is_parted = False
        self._has_noted = False  #: that replicas are watched
        self._held: dict[ReplicaId, str] = {}  #: their folders
        self._preparing = anyio.Lock()

    @property
    def found(self) -> Parting | NoParting:
        """Where cgroups of replicas are made, or why nowhere. Looks when it is first asked, and changes nothing."""
        if self._found is None:
            if self._choice == "watched":
                self._found = NoParting("memory_limits is watched")
            else:
                self._found = find_base(self._root)
        return self._found

    @property
    def told(self) -> str:
        """Who keeps replicas to their memory, in a line."""
        match self.found:
            case Parting():
                return "kernel"
            case NoParting(reason=reason):
                return f"watched: {reason}"

    def require(self) -> None:
        """Raise if the kernel is to hold replicas to their memory and cannot.

        Raises:
            InvalidConfigError: it says why not.
        """
        if self._choice == "kernel" and isinstance(self.found, NoParting):
            raise InvalidConfigError(
                f"memory_limits is kernel, but {self.found.reason}. See docs/resources.md, or set it to auto."
            )

    def holds(self, replica: ReplicaId) -> bool:
        """Whether the kernel holds this replica to its memory."""
        return replica in self._held

    async def open(self, replica: ReplicaId, limit_bytes: float) -> str:
        """Return the cgroup that a replica has to enter, "" if it has none: it is to be watched then."""
        if not limit_bytes:
            return ""
        if isinstance(self.found, NoParting):
            if not self._has_noted:
                logger.warning("memory of replicas is watched: %s", self.found.reason)
            self._has_noted = True
            return ""
        try:
            async with self._preparing:
                if not self._is_parted:
                    await anyio.to_thread.run_sync(part, self.found.base)
                    self._is_parted = True
                    logger.info("memory of replicas is limited by the kernel, below %s", self.found.base)
            folder = os.path.join(self.found.base, self._name(replica))
            await anyio.to_thread.run_sync(_make, folder, int(limit_bytes))
        except OSError as error:
            if self._choice == "kernel":
                raise
            self._found = NoParting(f"{error.filename or self.found.base}: {error.strerror}")
            return await self.open(replica, limit_bytes)
        self._held[replica] = folder
        return folder

    def adopt(self, replica: ReplicaId, pid: int) -> None:
        """Take note of where a replica of an earlier daemon lives."""
        if isinstance(self.found, NoParting):
            return
        own = memberships(_read(self._root / f"proc/{pid}/cgroup"))
        if any(os.path.basename(m.path) == self._name(replica) for m in own if not m.controllers):
            self._held[replica] = os.path.join(self.found.base, self._name(replica))

    def is_over(self, replica: ReplicaId) -> bool:
        """Whether the kernel has ended processes of this replica because it wanted more than its limit."""
        folder = self._held.get(replica)
        return folder is not None and count_of("oom_kill", _read(Path(folder, "memory.events"))) > 0

    async def close(self, replica: ReplicaId) -> None:
        """Remove a replica's cgroup, with what is still in it. To be called once its process has ended."""
        if (folder := self._held.get(replica)) is not None:
            await anyio.to_thread.run_sync(_remove, folder)
            del self._held[replica]

    async def sweep(self, known: Iterable[ReplicaId]) -> None:
        """Remove cgroups that earlier daemons have left, but for those of these replicas."""
        if isinstance(self.found, NoParting):
            return
        kept = {self._name(replica) for replica in known}
        base = self.found.base
        left = [name for name in os.listdir(base) if name.startswith(group_prefix(self._instance))]
        for name in left:
            if name not in kept:
                logger.info("cgroup %s was left behind and is removed", name)
                await anyio.to_thread.run_sync(_remove, os.path.join(base, name))

    def _name(self, replica: ReplicaId) -> str:
        return group_name(self._instance, suffix_of(replica))


# --- looking ------------------------------------------------------------------------------------


def find_base(root: Path = Path("/")) -> Parting | NoParting:
    """Return below which cgroup this process may make others. Changes nothing."""
    own = memberships(_read(root / "proc/self/cgroup"))
    found = mounts(_read(root / "proc/self/mountinfo"))
    mount = unified_mount(found)
    path = next((membership.path for membership in own if not membership.controllers), None)
    folders = [] if mount is None or path is None else _look_up(path, mount, root)
    return choose_base(
        own,
        found,
        folders,
        is_root=os.geteuid() == 0,
        has_systemd=os.path.isdir(root / "run/systemd/system"),
    )


def _look_up(path: str, mount: Mount, root: Path) -> list[Folder]:
    """Return what is told of a cgroup and the two above it."""
    folders: list[Folder] = []
    top = str(root / mount.folder.lstrip("/"))
    at = str(root / folder_of(path, mount).lstrip("/"))
    while len(folders) < 3:
        folders.append(_look_at(at, is_top=at == top))
        if at == top:
            break
        at = os.path.dirname(at)
    return folders


def _look_at(path: str, *, is_top: bool) -> Folder:
    parts = [path, *(os.path.join(path, name) for name in ("cgroup.procs", "cgroup.subtree_control"))]
    try:
        is_ours = os.stat(path).st_uid == os.geteuid()
    except OSError:
        is_ours = False
    return Folder(
        path=path,
        controllers=frozenset(_read(Path(path, "cgroup.controllers")).split()),
        is_writable=all(os.access(part, os.W_OK) for part in parts),
        is_ours=is_ours,
        is_marked=any(_mark(path, name) == b"1" for name in ("user.delegate", "trusted.delegate")),
        is_top=is_top,
        # The root of the hierarchy is the one cgroup that nothing can be told of.
        is_whole_machine=is_top and not os.path.exists(os.path.join(path, "cgroup.events")),
    )


def _mark(path: str, name: str) -> bytes:
    if not hasattr(os, "getxattr"):
        return b""
    try:
        return os.getxattr(path, name)
    except OSError:  # not marked, or not for us to see
        return b""


# --- acting -------------------------------------------------------------------------------------


def part(base: str) -> None:
    """Let the children of this cgroup have limits; moves the processes in it one level down if need be.

    Raises:
        OSError: the kernel refuses.
    """
    for _ in range(_MOVING_ROUNDS):
        if "memory" in _read(Path(base, "cgroup.subtree_control")).split():
            return
        try:
            _write(os.path.join(base, "cgroup.subtree_control"), "+memory")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _move_down(base)
    raise OSError(errno.EBUSY, "it has processes that cannot be moved", base)


def _move_down(base: str) -> None:
    leaf = os.path.join(base, LEAF)
    os.makedirs(leaf, exist_ok=True)
    logger.info("the processes in cgroup %s move to %s", base, leaf)
    for pid in _read(Path(base, "cgroup.procs")).split():
        try:
            _write(os.path.join(leaf, "cgroup.procs"), pid)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def _make(folder: str, limit_bytes: int) -> None:
    os.mkdir(folder)
    try:
        _write(os.path.join(folder, "memory.max"), str(limit_bytes))
        _write(os.path.join(folder, "memory.oom.group"), "1")  # it is of no use without what it started
        swap = os.path.join(folder, "memory.swap.max")
        if os.path.exists(swap):  # some kernels do not count it
            _write(swap, "0")
    except OSError:
        os.rmdir(folder)
        raise


def _remove(folder: str) -> None:
    """End what is left in a cgroup and remove it; one that does not get empty stays for the next sweep."""
    give_up_at = time.monotonic() + _EMPTY_PATIENCE_S
    while True:
        try:
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > give_up_at:
                logger.warning("cgroup %s was not removed: %s", folder, error.strerror)
                return
        _kill(folder)
        time.sleep(_LOOK_EVERY_S)  # in a worker thread


def _kill(folder: str) -> None:
    for pid in _read(Path(folder, "cgroup.procs")).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def _write(path: str, text: str) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # what cannot be read is not known
        return ""
