"""Whether this process may make cgroups for replicas, and below which one.

Pure: what the kernel says of the cgroups around us comes in, a decision or a reason goes out. `controller/cgroups.py`
looks and acts. Only cgroup v2 is used for limits; of version 1 we read limits that somebody else has set.

A cgroup may only be parted by whom it was handed over to. That is so if systemd has marked it (`Delegate=`), if it is
the root of a container, or if it belongs to our user and the one above does not. Because a cgroup that gives limits
to its children may have no processes itself, ours are then one level below, next to those of the replicas. So the
one above our own counts too, if ours is the one that we made (`LEAF`) or that systemd made (`DelegateSubgroup=`).

Sources: cgroup-v2.rst of the Linux kernel ("Delegation", "No Internal Process Constraint"); CGROUP_DELEGATION of
systemd.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

import msgspec

#: Holds the processes that are no replica with a limit, where those may not stay in the cgroup that is parted.
LEAF = "serve-lite"
_UNIT = re.compile(r"\.(service|scope|slice)$")
_OCTAL = re.compile(r"\\([0-7]{3})")


class Membership(msgspec.Struct, frozen=True):
    """One line of /proc/PID/cgroup: the cgroup of a process in one hierarchy."""

    controllers: tuple[str, ...]  #: of version 1; () is version 2
    path: str  #: in the hierarchy, as this process sees it


class Mount(msgspec.Struct, frozen=True):
    """Where a hierarchy is seen in the file system."""

    folder: str
    root: str  #: which of its cgroups is there
    controllers: tuple[str, ...]  #: of version 1; () is version 2
    is_writable: bool


def memberships(text: str) -> list[Membership]:
    """Read /proc/PID/cgroup."""
    lines = [line.split(":", 2) for line in text.splitlines()]
    return [Membership(tuple(filter(None, line[1].split(","))), line[2]) for line in lines if len(line) == 3]


def mounts(text: str) -> list[Mount]:
    """Read the hierarchies in /proc/PID/mountinfo, in its order."""
    found = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = tuple(kind[2].split(",")) if kind[0] == "cgroup" else ()
        is_writable = "rw" in fields[5].split(",") and "rw" in kind[2].split(",")
        found.append(Mount(_unescaped(fields[4]), _unescaped(fields[3]), controllers, is_writable))
    return found


def folder_of(path: str, mount: Mount) -> str:
    """Return where a cgroup is seen; the top of the mount for one that is out of sight."""
    relative = posixpath.relpath(path, mount.root)
    return mount.folder if relative == "." or relative.startswith("..") else f"{mount.folder}/{relative}"


def unified_mount(found: Sequence[Mount]) -> Mount | None:
    """Return where version 2 is mounted: writable if it is anywhere."""
    unified = [mount for mount in found if not mount.controllers]
    return next((mount for mount in unified if mount.is_writable), unified[0] if unified else None)


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel tells of one cgroup of version 2."""

    path: str
    controllers: frozenset[str] = frozenset()  #: that it may give its children
    is_writable: bool = False  #: children can be made in it, processes moved into it and controllers given
    is_ours: bool = False  #: belongs to our user
    is_marked: bool = False  #: systemd has handed it over
    is_top: bool = False  #: nothing above it is seen
    is_whole_machine: bool = False  #: is the root of the hierarchy

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


class Parting(msgspec.Struct, frozen=True):
    """Replicas can have cgroups of their own."""

    base: str  #: below which they are made


class NoParting(msgspec.Struct, frozen=True):
    """Replicas cannot have cgroups of their own."""

    reason: str  #: "the file system of cgroups is mounted read-only"


def choose_base(
    own: Sequence[Membership],
    found: Sequence[Mount],
    folders: Sequence[Folder],
    *,
    is_root: bool,
    has_systemd: bool,
) -> Parting | NoParting:
    """Return below which cgroup replicas get their own, or why they cannot have any.

    Args:
        own: the cgroups of this process.
        found: the hierarchies that it sees.
        folders: its cgroup of version 2 and the two above, as far as they are seen, its own first.
        is_root: whether it may do everything.
        has_systemd: whether systemd rules this machine, or this container.
    """
    mount = unified_mount(found)
    if mount is None or not folders:
        return NoParting("cgroup v2 is not mounted here")
    if any(not membership.controllers and membership.path.startswith("/..") for membership in own):
        return NoParting("the cgroup of this process is out of its sight")
    if any("memory" in membership.controllers for membership in own):
        return NoParting("memory is counted by cgroup v1 on this machine")
    if not mount.is_writable:
        return NoParting("the file system of cgroups is mounted read-only")
    base = _handed_over(folders, is_root=is_root, has_systemd=has_systemd)
    if base is None:
        told = (
            "with Delegate=memory in its unit systemd does" if has_systemd else "its owner is somebody else"
        )
        return NoParting(f"cgroup {folders[0].path} was not handed over to this instance; {told}")
    if not base.is_writable:
        return NoParting(f"cgroup {base.path} cannot be written to")
    if "memory" not in base.controllers:
        return NoParting(f"cgroup {base.path} has no memory controller")
    return Parting(base.path)


def _handed_over(folders: Sequence[Folder], *, is_root: bool, has_systemd: bool) -> Folder | None:
    own, *above = folders
    if _is_handed_over(own, above[:1], is_root=is_root, has_systemd=has_systemd):
        return own
    if not above or _UNIT.search(own.name):
        return None
    parent, *beyond = above
    # Another one beside us may be there for its limits, out of which replicas must not get.
    is_beside = own.name == LEAF or parent.is_marked
    if is_beside and _is_handed_over(parent, beyond[:1], is_root=is_root, has_systemd=has_systemd):
        return parent
    return None


def _is_handed_over(folder: Folder, above: Sequence[Folder], *, is_root: bool, has_systemd: bool) -> bool:
    if folder.is_marked:
        return True
    if folder.is_whole_machine:  # without systemd nobody else rules there
        return is_root and not has_systemd
    if folder.is_top:  # of a container
        return True
    return not is_root and folder.is_ours and not any(one.is_ours for one in above)


def group_name(instance: str, suffix: str) -> str:
    """Return the name of the cgroup of one replica."""
    return f"{group_prefix(instance)}{suffix}"


def group_prefix(instance: str) -> str:
    """Return how the names of all of an instance's begin."""
    return f"{LEAF}.{instance[:12]}."


def count_of(name: str, text: str) -> int:
    """Return a number of a file such as memory.events, 0 if it is not there."""
    for line in text.splitlines():
        key, _, number = line.partition(" ")
        if key == name:
            return int(number)
    return 0


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, where blanks are octal."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)
