"""What is looked at to find out whether cgroups may be made; with folders that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_lite.controller.cgroups import ReplicaGroups, find_base
from serve_lite.exceptions import InvalidConfigError
from serve_lite.policy.cgroups import NoParting, Parting
from serve_lite.state.ids import DeploymentId, replica_id

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
INSTANCE = "0123456789abcdef"
ONE = replica_id(DeploymentId("app", "Model"), "abcd1234")


def kernel(root: Path, own: str, *, mounts: str = V2, controllers: str = "cpu memory pids\n") -> Path:
    """Write what the kernel tells of a process in the cgroup `own`, and return the folder of that."""
    for name, text in {"cgroup": f"0::{own}\n", "mountinfo": mounts}.items():
        (root / "proc/self").mkdir(parents=True, exist_ok=True)
        (root / "proc/self" / name).write_text(text)
    folder = root / "sys/fs/cgroup" / own.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": "",
        "cgroup.procs": "",
        "cgroup.events": "populated 1\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def test_the_outermost_cgroup_of_a_container_is_found(tmp_path: Path) -> None:
    folder = kernel(tmp_path, "/")
    assert find_base(tmp_path) == Parting(str(folder))
    kernel(tmp_path, "/serve-lite")
    assert find_base(tmp_path) == Parting(str(folder)), "where the processes have moved down already"


def test_a_machine_without_cgroups_has_none(tmp_path: Path) -> None:
    assert find_base(tmp_path) == NoParting("cgroup v2 is not mounted here")


def test_without_the_memory_controller_there_are_no_limits(tmp_path: Path) -> None:
    folder = kernel(tmp_path, "/", controllers="cpu pids\n")
    assert find_base(tmp_path) == NoParting(f"cgroup {folder} has no memory controller")


def test_a_mark_of_systemd_hands_a_cgroup_over(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    kernel(tmp_path, "/system.slice")
    folder = kernel(tmp_path, "/system.slice/shop.service")
    os.chown(folder.parent, 0, 0)
    told = ReplicaGroups(INSTANCE, root=tmp_path).told
    if os.geteuid() == 0:  # else the owners tell that it is ours
        assert told.startswith("watched: cgroup ") and "was not handed over" in told
    try:
        os.setxattr(folder, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this file system keeps no attributes of users: {error.strerror}")
    assert find_base(tmp_path) == Parting(str(folder))
    assert ReplicaGroups(INSTANCE, root=tmp_path).told == "kernel"


async def test_nobody_looks_or_acts_where_replicas_are_to_be_watched(tmp_path: Path) -> None:
    folder = kernel(tmp_path, "/")
    groups = ReplicaGroups(INSTANCE, "watched", root=tmp_path)
    assert await groups.open(ONE, 1e9) == ""
    assert groups.told == "watched: memory_limits is watched" and not groups.holds(ONE)
    assert (folder / "cgroup.subtree_control").read_text() == ""


async def test_a_replica_without_a_limit_has_no_cgroup_and_nothing_is_touched(tmp_path: Path) -> None:
    folder = kernel(tmp_path, "/")
    groups = ReplicaGroups(INSTANCE, root=tmp_path)
    assert await groups.open(ONE, 0) == ""
    assert (folder / "cgroup.subtree_control").read_text() == ""


async def test_where_the_kernel_refuses_after_all_replicas_are_watched(tmp_path: Path) -> None:
    folder = kernel(tmp_path, "/")
    (folder / "cgroup.subtree_control").write_text("cpu memory")
    groups = ReplicaGroups(INSTANCE, root=tmp_path)
    (folder / f"serve-lite.{INSTANCE[:12]}.abcd1234").mkdir()  # in the way
    assert await groups.open(ONE, 1e9) == ""
    assert groups.told.startswith("watched: ") and groups.told.endswith(": File exists")
    strict = ReplicaGroups(INSTANCE, "kernel", root=tmp_path)
    with pytest.raises(FileExistsError):
        await strict.open(ONE, 1e9)


def test_who_asks_for_the_kernel_is_told_why_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError) as refused:
        ReplicaGroups(INSTANCE, "kernel", root=tmp_path).require()
    assert str(refused.value).startswith("memory_limits is kernel, but cgroup v2 is not mounted here.")
    ReplicaGroups(INSTANCE, "auto", root=tmp_path).require()
