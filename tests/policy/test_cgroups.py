"""Below which cgroup replicas may have theirs: what the kernel says comes in, a decision or a reason goes out."""

from __future__ import annotations

import pytest

from serve_lite.policy.cgroups import (
    Folder,
    Membership,
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
)

TOP = "/sys/fs/cgroup"
V2 = (Mount(TOP, "/", (), True),)
READ_ONLY = (Mount(TOP, "/", (), False),)
HYBRID_TEXT = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""


def folder(path: str, **more: bool) -> Folder:
    return Folder(path=path, controllers=frozenset({"memory", "pids"}), **({"is_writable": True, **more}))


def handed(
    *folders: Folder,
    found: tuple[Mount, ...] = V2,
    path: str = "/a",
    is_root: bool = False,
    has_systemd: bool = True,
) -> Parting | NoParting:
    own = [Membership((), path)]
    return choose_base(own, found, folders, is_root=is_root, has_systemd=has_systemd)


SERVICE = f"{TOP}/system.slice/shop.service"
SLICE = folder(f"{TOP}/system.slice", is_writable=False)
CONTAINER = folder(TOP, is_top=True)
MACHINE = folder(TOP, is_top=True, is_whole_machine=True)


@pytest.mark.parametrize("is_root", [True, False])
def test_a_service_that_systemd_has_handed_over_is_parted(is_root: bool) -> None:
    assert handed(folder(SERVICE, is_marked=True), SLICE, is_root=is_root) == Parting(SERVICE)


@pytest.mark.parametrize("leaf", ["serve-lite", "main"])
def test_after_the_processes_moved_one_level_down_the_one_above_is_still_parted(leaf: str) -> None:
    own, service = folder(f"{SERVICE}/{leaf}"), folder(SERVICE, is_marked=True)
    assert handed(own, service, SLICE) == Parting(SERVICE)


def test_a_unit_below_one_that_is_handed_over_belongs_to_whom_it_was_handed_to() -> None:
    """A terminal's scope below user@1000.service, which is handed over to the user's systemd."""
    manager = folder(f"{TOP}/user@1000.service", is_marked=True)
    assert isinstance(handed(folder(f"{manager.path}/tmux.scope"), manager), NoParting)


@pytest.mark.parametrize("is_root", [True, False])
def test_a_shell_s_scope_is_left_alone(is_root: bool) -> None:
    own = folder(f"{TOP}/user.slice/session-3.scope", is_ours=True)
    above = folder(f"{TOP}/user.slice", is_ours=True)
    told = handed(own, above, is_root=is_root)
    assert isinstance(told, NoParting) and "was not handed over" in told.reason
    assert "Delegate=memory" in told.reason


def test_a_container_s_outermost_cgroup_is_parted() -> None:
    assert handed(CONTAINER, is_root=True, has_systemd=False) == Parting(TOP)
    assert handed(folder(f"{TOP}/serve-lite"), CONTAINER, has_systemd=False) == Parting(TOP)


def test_what_belongs_to_our_user_below_what_does_not_was_given_to_us() -> None:
    own = folder(f"{TOP}/ours", is_ours=True)
    assert handed(own, MACHINE, has_systemd=False) == Parting(own.path)
    assert isinstance(handed(own, MACHINE, has_systemd=False, is_root=True), NoParting)


def test_the_whole_machine_is_root_s_if_nobody_rules_it() -> None:
    assert handed(MACHINE, is_root=True, has_systemd=False) == Parting(TOP)
    assert isinstance(handed(MACHINE, is_root=True, has_systemd=True), NoParting)
    assert isinstance(handed(MACHINE, is_root=False, has_systemd=False), NoParting)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (handed(found=()), "cgroup v2 is not mounted here"),
        (handed(CONTAINER, found=READ_ONLY), "the file system of cgroups is mounted read-only"),
        (
            handed(folder(SERVICE, is_marked=True, is_writable=False), SLICE),
            f"cgroup {SERVICE} cannot be written to",
        ),
        (
            handed(Folder(path=SERVICE, is_marked=True, is_writable=True), SLICE),
            f"cgroup {SERVICE} has no memory controller",
        ),
        (handed(CONTAINER, path="/../other"), "the cgroup of this process is out of its sight"),
        (
            choose_base(
                [Membership(("memory",), "/"), Membership((), "/")],
                V2,
                [MACHINE],
                is_root=True,
                has_systemd=False,
            ),
            "memory is counted by cgroup v1 on this machine",
        ),
    ],
)
def test_the_reason_says_what_is_in_the_way(told: Parting | NoParting, reason: str) -> None:
    assert told == NoParting(reason)


def test_a_writable_mount_is_taken_before_one_that_is_not() -> None:
    both = (*READ_ONLY, Mount("/mnt/cgroup", "/", (), True))
    assert handed(CONTAINER, found=both) == Parting(TOP)


def test_what_the_kernel_writes_is_read() -> None:
    assert memberships("5:cpu,cpuacct:/docker/1\n1:name=systemd:/\n0::/a:b\nodd\n") == [
        Membership(("cpu", "cpuacct"), "/docker/1"),
        Membership(("name=systemd",), "/"),
        Membership((), "/a:b"),
    ]
    found = mounts(HYBRID_TEXT)
    assert [(m.folder, "memory" in m.controllers) for m in found] == [
        (f"{TOP}/memory", True),
        (f"{TOP}/systemd", False),
        (f"{TOP}/unified", False),
    ]
    assert found[-1] == Mount(f"{TOP}/unified", "/", (), True)
    (odd,) = mounts(r"30 24 0:26 /a\040b /mnt/c\134d ro - cgroup2 none rw" + "\n30 24 broken\n")
    assert odd == Mount("/mnt/c\\d", "/a b", (), False)


def test_a_cgroup_is_found_below_where_its_hierarchy_is_mounted() -> None:
    whole, part = Mount(TOP, "/", (), True), Mount(TOP, "/pods/1", (), True)
    assert folder_of("/", whole) == TOP and folder_of("/a/b", whole) == f"{TOP}/a/b"
    assert folder_of("/pods/1", part) == TOP and folder_of("/pods/1/c", part) == f"{TOP}/c"
    assert folder_of("/pods/2", part) == TOP, "out of sight"


def test_names_tell_whose_a_group_is() -> None:
    one, other = "a" * 28, "ab" * 14
    assert group_name(one, "x1y2").startswith(group_prefix(one))
    assert not group_name(other, "x1y2").startswith(group_prefix(one))


def test_a_number_is_found_by_its_whole_name() -> None:
    text = "low 0\noom 4\noom_kill 2\noom_group_kill 1\n"
    assert [count_of(name, text) for name in ("oom_kill", "oom", "kill")] == [2, 4, 0]
