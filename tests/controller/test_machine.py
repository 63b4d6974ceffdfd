"""What is found out about the machine: GPUs from the driver's words, CPUs and memory within cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from serve_lite.controller.machine import (
    Inventory,
    PresentGpu,
    chosen_gpus,
    gpus_of_driver,
    gpus_of_tool,
    present_gpus,
    usable_cpus,
    usable_memory_bytes,
    with_devices,
)
from serve_lite.state.goal import CodeEnvironment
from serve_lite.state.resources import NO_ALLOTMENT, Allotment, Gpu, Machine, MachineOptions
from tests.instances import until
from tests.policy.cases import application, goal_of, wanted

TOOL = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed)
GPU 1: Tesla T4 (rev. 2) (UUID: GPU-7a91c9c2-8f1e)
"""
PRESENT = gpus_of_tool(TOOL)


def test_the_words_of_the_tool_are_read_with_the_parts_of_a_gpu() -> None:
    assert [(gpu.index, gpu.uuid, gpu.name) for gpu in PRESENT] == [
        ("0", "GPU-5d5ba0d6-d33d", "NVIDIA A100-SXM4-40GB"),
        ("1", "GPU-7a91c9c2-8f1e", "Tesla T4 (rev. 2)"),
    ]
    assert [part.id for part in PRESENT[0].parts] == ["MIG-c6d4f1ef-42e4", "MIG-cba663e8-9bed"]
    assert gpus_of_tool("No devices were found\n") == []


def test_all_gpus_are_taken_without_a_mask_and_parts_instead_of_what_they_are_of() -> None:
    gpus, counts_by_bus = chosen_gpus(PRESENT, MachineOptions())
    assert [gpu.id for gpu in gpus] == ["MIG-c6d4f1ef-42e4", "MIG-cba663e8-9bed", "1"]
    assert gpus[1].name == "NVIDIA A100-SXM4-40GB MIG 1g.5gb" and counts_by_bus


def test_the_ids_of_the_mask_are_kept_as_they_are_and_named_where_the_driver_knows_them() -> None:
    mask = ("1", "GPU-5d5b", "MIG-cba663e8-9bed", "GPU-elsewhere")
    gpus, counts_by_bus = chosen_gpus(PRESENT, MachineOptions(gpu_ids=mask))
    assert tuple(gpu.id for gpu in gpus) == mask
    assert [gpu.name.split()[0] if gpu.name else "" for gpu in gpus] == ["Tesla", "NVIDIA", "NVIDIA", ""]
    assert not counts_by_bus, "whoever made the mask knows in which order"
    assert chosen_gpus(PRESENT, MachineOptions(gpu_ids=())) == ((), False)


def test_a_number_takes_the_first_ones_and_may_know_of_more_than_the_tool() -> None:
    assert chosen_gpus([], MachineOptions(num_gpus=2)) == ((Gpu(id="0"), Gpu(id="1")), False)
    assert [g.id for g in chosen_gpus(PRESENT, MachineOptions(num_gpus=1, gpu_ids=("7", "8")))[0]] == ["7"]
    assert chosen_gpus(PRESENT, MachineOptions(num_gpus=0))[0] == ()
    one = [PresentGpu("0", "GPU-a", "Tesla T4")]
    assert [(g.id, g.name) for g in chosen_gpus(one, MachineOptions(num_gpus=2))[0]] == [
        ("0", "Tesla T4"),
        ("1", ""),
    ]


def test_the_driver_tells_of_gpus_in_the_order_of_the_bus(tmp_path: Path) -> None:
    for place, model in (("0000:81:00.0", "Tesla T4"), ("0000:01:00.0", "NVIDIA A10G")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(
            f"Model: \t\t {model}\nIRQ:   \t\t 33\nGPU UUID: \t GPU-{place}\n"
        )
    assert [(g.index, g.name, g.uuid) for g in gpus_of_driver(tmp_path)] == [
        ("0", "NVIDIA A10G", "GPU-0000:01:00.0"),
        ("1", "Tesla T4", "GPU-0000:81:00.0"),
    ]
    assert gpus_of_driver(tmp_path / "nothing") == []


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed because...'; exit 9", None])
async def test_without_a_tool_that_works_there_are_the_gpus_that_the_driver_knows(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("no program" if script is None else f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert await present_gpus() == gpus_of_driver(Path("/proc/driver/nvidia/gpus"))


def test_a_replica_sees_its_own_gpus_and_is_told_the_order_if_they_are_numbers_of_ours() -> None:
    environment = CodeEnvironment(cwd="/srv", env_vars={"A": "1", "CUDA_VISIBLE_DEVICES": "9"})
    two = Allotment(gpu_ids=("1", "3"))
    assert with_devices(environment, NO_ALLOTMENT, Machine(counts_by_bus=True)) is environment
    assert with_devices(environment, two, Machine()).env_vars == {"A": "1", "CUDA_VISIBLE_DEVICES": "1,3"}
    ours = with_devices(environment, two, Machine(counts_by_bus=True))
    assert ours.env_vars["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID" and ours.cwd == "/srv"


async def test_gpus_of_a_driver_that_comes_late_are_found_while_somebody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    woken: list[Machine] = []
    goal = goal_of(application(wanted(ray_actor_options={"num_gpus": 1})))
    async with anyio.create_task_group() as group:
        inventory = Inventory(
            MachineOptions(),
            wake=lambda: woken.append(inventory.machine),
            spawn=group.start_soon,
            look_again_s=0.01,
        )
        assert inventory.machine_for(goal).gpus is None
        await until(lambda: woken, "it has looked")
        assert inventory.machine_for(goal).gpus == ()
        tool = tmp_path / "half"
        tool.write_text("#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: GPU-1)'\n")
        tool.chmod(0o755)
        tool.rename(tmp_path / "nvidia-smi")
        await until(lambda: inventory.machine_for(goal).gpus, "it has found one")
    assert woken[-1].gpus == (Gpu(id="0", name="Tesla T4"),) and len(woken) == 2


async def test_nobody_looks_on_when_nobody_waits_and_nothing_is_looked_for_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    waits, idle = (
        goal_of(application(wanted(ray_actor_options=options)))
        for options in ({"num_gpus": 1}, {"num_cpus": 1})
    )
    woken: list[None] = []
    async with anyio.create_task_group() as group:  # which ends when the last look does
        unsure = Inventory(
            MachineOptions(), wake=lambda: woken.append(None), spawn=group.start_soon, look_again_s=0.01
        )
        unsure.machine_for(waits)
        await until(lambda: woken, "it has looked")
        unsure.machine_for(idle)
        told = Inventory(MachineOptions(num_gpus=0), wake=lambda: woken.append(None), spawn=group.start_soon)
        told.machine_for(waits)
    assert unsure.machine_for(idle).gpus == told.machine_for(waits).gpus == ()


# --- CPUs and memory ----------------------------------------------------------------------------


def machine(root: Path, cgroup: str, mounts: str, files: dict[str, str], memory_kb: int = 16_000_000) -> Path:
    """Write what the kernel would tell below `root`."""
    told = {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mounts,
        "proc/meminfo": f"MemTotal:       {memory_kb} kB\nMemFree:  1 kB\n",
        **files,
    }
    for name, text in told.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:28 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
ALLOWED = len(os.sched_getaffinity(0))


def test_without_a_limit_there_is_what_the_machine_has(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/a/cpu.max": "max 100000\n", "sys/fs/cgroup/a/memory.max": "max\n"}
    root = machine(tmp_path, "0::/a\n", V2, files)
    assert (usable_cpus(root), usable_memory_bytes(root)) == (ALLOWED, 16_000_000 * 1024)


def test_the_narrowest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/a/b/memory.max": "2000000000\n",
        "sys/fs/cgroup/a/memory.max": "1000000000\n",
    }
    root = machine(tmp_path, "0::/a/b\n", V2, files)
    assert (usable_cpus(root), usable_memory_bytes(root)) == (0.5, 1_000_000_000)


def test_a_container_that_sees_its_own_cgroup_as_the_outermost_has_its_limits(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "25000 100000\n", "sys/fs/cgroup/memory.max": "500000000\n"}
    mounts = V2.replace(" / /sys", " /kubepods/pod1 /sys")
    root = machine(tmp_path, "0::/kubepods/pod1\n", mounts, files)
    assert (usable_cpus(root), usable_memory_bytes(root)) == (0.25, 500_000_000)
    outside = machine(tmp_path, "0::/../other\n", mounts, files)
    assert usable_cpus(outside) == 0.25


def test_version_1_of_cgroups_is_read_too(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "20000\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "300000000\n",
    }
    root = machine(tmp_path, "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n", V1, files)
    assert (usable_cpus(root), usable_memory_bytes(root)) == (0.2, 300_000_000)


def test_a_system_without_such_files_has_what_it_may_use(tmp_path: Path) -> None:
    assert (usable_cpus(tmp_path), usable_memory_bytes(tmp_path)) == (ALLOWED, None)


def test_this_machine_has_some() -> None:
    assert 0 < usable_cpus() <= ALLOWED
    assert (usable_memory_bytes() or 0) > 2**24
