"""What replicas need of the machine, what it has, and what a replica was given.

Frozen values; `policy/devices.py` reckons with them. Only what a user asks for counts: a deployment that says
nothing of resources needs nothing, and any number of its replicas may be started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Needs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one replica was asked to be given: `ray_actor_options` without what says nothing of resources."""

    cpus: float = 0.0
    gpus: float = 0.0  #: a share of one, or whole ones
    memory_bytes: float = 0.0
    custom: dict[str, float] = {}  #: by the names that the instance was given
    accelerator_type: str = ""  #: words that the name of the GPU must have, "A100" or "A100-80G"
    own_cpus: int = 0  #: to which it alone is bound
    cpu_ids: tuple[int, ...] = ()  #: to which it is bound, whoever else is

    @property
    def is_nothing(self) -> bool:
        return self == NOTHING

    @property
    def wants_gpus(self) -> bool:
        """Whether the machine's GPUs must be known to meet it."""
        return self.gpus > 0 or bool(self.accelerator_type)

    def shown(self) -> dict[str, float]:
        """Return the amounts under Ray's names."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes, **self.custom}
        return {name: amount for name, amount in amounts.items() if amount}


NOTHING = Needs()


def needs_of(actor_options: Mapping[str, Any], cpu_affinity: str | Sequence[int] | None = None) -> Needs:
    """Return what is asked for, explicitly: Ray's default of one CPU is not set aside here."""
    is_own = isinstance(cpu_affinity, str)
    custom = {name: float(n) for name, n in (actor_options.get("resources") or {}).items() if n}
    return Needs(
        cpus=float(actor_options.get("num_cpus") or 0),
        gpus=float(actor_options.get("num_gpus") or 0),
        memory_bytes=float(actor_options.get("memory") or 0),
        custom=custom,
        accelerator_type=actor_options.get("accelerator_type") or "",
        own_cpus=int(actor_options.get("num_cpus") or 0) if is_own else 0,
        cpu_ids=() if is_own else tuple(map(int, cpu_affinity or ())),
    )


class Allotment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a replica was given, for as long as its process lives."""

    needs: Needs = NOTHING
    gpu_ids: tuple[str, ...] = ()  #: as in CUDA_VISIBLE_DEVICES; one with a share of a GPU has one id
    cpu_ids: tuple[int, ...] = ()  #: to which it is bound; (): to none

    def shown(self) -> dict[str, float]:
        """Return the amounts under Ray's names."""
        return self.needs.shown()


NO_ALLOTMENT = Allotment()


class Gpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU, or one MIG instance of a GPU."""

    id: str  #: index, GPU-uuid or MIG-uuid, as in CUDA_VISIBLE_DEVICES
    name: str = ""  #: as its driver calls it, "NVIDIA A100-SXM4-80GB"; "": nobody could tell


class Machine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What there is to give."""

    cpus: float | None = None  #: None: not limited
    cpu_ids: tuple[int, ...] = ()  #: to which a replica may be bound
    memory_bytes: float | None = None  #: None: not limited
    gpus: tuple[Gpu, ...] | None = ()  #: None: not looked for yet
    custom: dict[str, float] = {}
    #: The ids of the GPUs are indices in the order of their bus, which CUDA has to be told.
    counts_by_bus: bool = False


class MachineOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an instance is told of the machine; what it is not told it finds out."""

    num_cpus: float | None = None
    num_gpus: int | None = None
    memory_bytes: float | None = None
    resources: dict[str, float] = {}  #: amounts of anything else, by names that only the user understands
    gpu_ids: tuple[str, ...] | None = None  #: from CUDA_VISIBLE_DEVICES; None: all there are


UNLIMITED = Machine()  #: any number of replicas, as long as they need no GPU
