"""What the machine has to give: looked for when a deployment first asks for it, so that a start costs nothing.

CPUs and memory are what this process may use of them: the affinity mask and the limits of the cgroups it is in count.
GPUs are asked from the driver's tools, never from CUDA, which would take memory on each of them.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from serve_lite.policy.cgroups import folder_of, memberships, mounts
from serve_lite.state.goal import CodeEnvironment, Goal
from serve_lite.state.resources import Allotment, Gpu, Machine, MachineOptions, needs_of

logger = logging.getLogger(__name__)

_TOOL = "nvidia-smi"
_TOOL_PATIENCE_S = 20.0  #: it loads the driver if nobody else has, which takes seconds on large machines
_GPU_LINE = re.compile(r"GPU (\d+): (.*) \(UUID: ([^)]+)\)")
_MIG_LINE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: ([^)]+)\)")


class Inventory:
    """What is known of the machine.

    Args:
        options: what the instance was told; it wins over what is found.
        wake: called when more is known.
        spawn: starts a task that ends by itself.
        look_again_s: pause before GPUs are looked for once more where none were found and somebody waits for one: a
            driver may come up later than we do.
    """

    def __init__(
        self,
        options: MachineOptions,
        *,
        wake: Callable[[], None],
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        look_again_s: float = 30.0,
    ) -> None:
        self.machine = Machine(gpus=None)
        self._options, self._wake, self._spawn = options, wake, spawn
        self._look_again_s = look_again_s
        self._is_measured = False
        self._is_looking = False
        self._is_wanted = False  #: somebody asks for GPUs

    def machine_for(self, goal: Goal) -> Machine:
        """Return what is known of what the goal asks for; begins to look for what is not."""
        asked = [
            needs
            for app in goal.apps.values()
            for d in app.deployments
            if not (needs := needs_of(d.config.ray_actor_options, d.config.cpu_affinity)).is_nothing
        ]
        if asked and not self._is_measured:
            self._is_measured = True
            self._measure()
        self._is_wanted = any(needs.wants_gpus for needs in asked)
        if self._is_wanted and not self.machine.gpus and not self._is_told and not self._is_looking:
            self._is_looking = True
            self._spawn(self._look_for_gpus)
        return self.machine

    def _measure(self) -> None:
        options = self._options
        cpus = options.num_cpus if options.num_cpus is not None else usable_cpus()
        memory = options.memory_bytes if options.memory_bytes is not None else usable_memory_bytes()
        self.machine = msgspec.structs.replace(
            self.machine, cpus=cpus, cpu_ids=bindable_cpus(), memory_bytes=memory, custom=options.resources
        )
        logger.info(
            "this machine has %g CPUs and %.0f bytes of memory for replicas", cpus, memory or math.nan
        )

    @property
    def _is_told(self) -> bool:
        """Whether all is known of GPUs that will ever be."""
        is_given = self._options.num_gpus is not None or self._options.gpu_ids is not None
        return is_given and self.machine.gpus is not None

    async def _look_for_gpus(self) -> None:
        try:
            while self._is_wanted:  # ends with GPUs, or with nobody who waits for one
                present = await present_gpus()
                gpus, counts_by_bus = chosen_gpus(present, self._options)
                if gpus != self.machine.gpus:
                    names = ", ".join(f"{gpu.id} ({gpu.name or 'unknown'})" for gpu in gpus)
                    logger.info("GPUs for replicas: %s", names or "none")
                    self.machine = msgspec.structs.replace(
                        self.machine, gpus=gpus, counts_by_bus=counts_by_bus
                    )
                    self._wake()
                if gpus or self._is_told:
                    return
                await anyio.sleep(self._look_again_s)
        finally:
            self._is_looking = False


def with_devices(environment: CodeEnvironment, allotment: Allotment, machine: Machine) -> CodeEnvironment:
    """Return the environment of a replica that sees its own GPUs only; the same if it has none.

    Its GPUs win over a CUDA_VISIBLE_DEVICES of the user's: both at once could only mean another replica's GPUs.
    """
    if not allotment.gpu_ids:
        return environment
    variables = {"CUDA_VISIBLE_DEVICES": ",".join(allotment.gpu_ids)}
    if machine.counts_by_bus:
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return msgspec.structs.replace(environment, env_vars={**environment.env_vars, **variables})


# --- GPUs ---------------------------------------------------------------------------------------


class PresentGpu(msgspec.Struct, frozen=True):
    """One GPU as its driver tells of it."""

    index: str  #: in the order of the bus
    uuid: str
    name: str
    parts: tuple[Gpu, ...] = ()  #: MIG instances, if it is cut into such


async def present_gpus() -> list[PresentGpu]:
    """Return all GPUs that the driver knows, none without a driver."""
    import shutil  # 2 ms, so not before somebody wants a GPU

    tool = shutil.which(_TOOL)
    if tool is not None:
        try:
            with anyio.fail_after(_TOOL_PATIENCE_S):
                done = await anyio.run_process([tool, "-L"], check=False)
        except (OSError, TimeoutError) as error:
            logger.warning("%s -L did not work: %s", _TOOL, error or f"no answer in {_TOOL_PATIENCE_S:g} s")
        else:
            if done.returncode == 0:
                return gpus_of_tool(done.stdout.decode(errors="replace"))
            logger.warning(
                "%s -L failed with status %d: %s", _TOOL, done.returncode, done.stdout.decode().strip()
            )
    return gpus_of_driver(Path("/proc/driver/nvidia/gpus"))


def gpus_of_tool(text: str) -> list[PresentGpu]:
    """Read the output of `nvidia-smi -L`."""
    found: list[PresentGpu] = []
    for line in text.splitlines():
        if whole := _GPU_LINE.match(line):
            found.append(PresentGpu(whole[1], whole[3], whole[2]))
        elif found and (part := _MIG_LINE.match(line)):
            last = found[-1]
            instance = Gpu(id=part[2], name=f"{last.name} MIG {part[1]}")
            found[-1] = msgspec.structs.replace(last, parts=(*last.parts, instance))
    return found


def gpus_of_driver(folder: Path) -> list[PresentGpu]:
    """Read what the driver's kernel module tells, one folder for each GPU, named by its place on the bus."""
    try:
        places = sorted(folder.iterdir())
    except OSError:
        return []
    found = []
    for index, place in enumerate(places):
        try:
            lines = (place / "information").read_text().splitlines()
        except OSError as error:
            logger.warning("a GPU is left out: %s", error)
            continue
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        found.append(PresentGpu(str(index), facts.get("GPU UUID", ""), facts.get("Model", "")))
    return found


def chosen_gpus(present: Sequence[PresentGpu], options: MachineOptions) -> tuple[tuple[Gpu, ...], bool]:
    """Return the GPUs that replicas may have, and whether their ids are indices in the order of the bus."""
    if options.gpu_ids is not None:
        return tuple(Gpu(id=i, name=_name_of(i, present)) for i in options.gpu_ids[: options.num_gpus]), False
    gpus = [part for gpu in present for part in gpu.parts or (Gpu(id=gpu.index, name=gpu.name),)]
    if options.num_gpus is not None:  # more than are found: somebody knows better than the driver's tool
        names = {gpu.id for gpu in gpus}
        more = (str(i) for i in range(options.num_gpus) if str(i) not in names)
        gpus = [*gpus, *(Gpu(id=i) for i in more)][: options.num_gpus]
    return tuple(gpus), bool(present)


def _name_of(gpu_id: str, present: Sequence[PresentGpu]) -> str:
    """Return what the driver calls the GPU that CUDA_VISIBLE_DEVICES names so; a UUID may be cut short there."""
    for gpu in present:
        if gpu_id == gpu.index or (gpu_id.startswith("GPU-") and gpu.uuid.startswith(gpu_id)):
            return gpu.name
        for part in gpu.parts:
            if part.id.startswith(gpu_id):
                return part.name
    return ""


# --- CPUs and memory ----------------------------------------------------------------------------


def usable_cpus(root: Path = Path("/")) -> float:
    """Return how many CPUs this process may use: affinity and the quotas of its cgroups."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quotas = [allowed]
    for folder in _cgroups("cpu", root):
        quota, period = _cpu_quota(folder)
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas)


def bindable_cpus() -> tuple[int, ...]:
    """Return the CPUs that this process may run on, by number; none where the system cannot bind to them."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def usable_memory_bytes(root: Path = Path("/")) -> float | None:
    """Return how much memory this process may use: the machine's, and the limits of its cgroups; None if unknown."""
    limits: list[float] = []
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(float(line.split()[1]) * 1024)
    for folder in _cgroups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit():  # not "max"
                limits.append(float(text))
    return min(limits, default=None)


def _cpu_quota(folder: Path) -> tuple[float | None, float]:
    fields = _read(folder / "cpu.max").split()
    if len(fields) == 2:
        return (None if fields[0] == "max" else float(fields[0])), float(fields[1])
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    return (float(quota), float(period)) if quota and period else (None, 0.0)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the cgroups that limit this process, from its own up to the outermost one it sees."""
    found = mounts(_read(root / "proc/self/mountinfo"))
    for membership in memberships(_read(root / "proc/self/cgroup")):
        if membership.controllers and controller not in membership.controllers:
            continue
        of_this = [
            m for m in found if (controller in m.controllers if membership.controllers else not m.controllers)
        ]
        if not of_this:
            continue
        top = root / of_this[0].folder.lstrip("/")
        folder = root / folder_of(membership.path, of_this[0]).lstrip("/")
        while True:
            yield folder
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a limit that cannot be read is not known
        return ""
