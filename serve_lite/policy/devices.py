"""Arithmetic of the machine's resources: what is free, who fits, and what is missing if one does not.

Pure. A `Pool` lives within one pass of `reconcile` and is asked by `policy/admission.py`, for one deployment after
the other, in the order of their claims (`policy/claims.py`). Who is refused keeps what it needs reserved within the
pass, so that what others free adds up for it: a big one is not overtaken for ever by small ones.

A share of a GPU goes to the GPU with the least room that still has enough; whole ones take GPUs that nobody uses.
CPUs to which a replica alone is bound are a set beside the amount of CPUs: who is bound to none may run on them too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from serve_lite.state.resources import NO_ALLOTMENT, Allotment, Gpu, Machine, Needs

#: Amounts are counted in these, so that ten tenths are one. Ray Serve has the same resolution.
UNITS = 10_000
_WHOLE = UNITS
_CPU, _MEMORY = "CPU", "memory"
_NAMES: Mapping[str, str] = MappingProxyType({_CPU: "a CPU", _MEMORY: "memory"})


def units(amount: float) -> int:
    """Return an amount in ten-thousandths; what is more than nothing is at least one of them."""
    return max(1, round(amount * UNITS)) if amount > 0 else 0


class Pool:
    """What is free of a machine while one pass plans.

    Args:
        machine: what there is.
        given: what every replica has whose process may still live.
    """

    def __init__(self, machine: Machine, given: Iterable[Allotment] = ()) -> None:
        self._machine = machine
        self._total = _totals(machine)
        self._free = dict(self._total)
        self._gpus = {gpu.id: gpu for gpu in machine.gpus or ()}
        self._gpu_free = dict.fromkeys(self._gpus, _WHOLE)
        #: for those that came first and still wait
        self._kept = dict.fromkeys(self._total, 0)
        self._gpu_kept = dict.fromkeys(self._gpus, 0)
        self._cpu_owners = dict.fromkeys(machine.cpu_ids, 0)
        self._cpu_sharers = dict.fromkeys(machine.cpu_ids, 0)
        self._cpus_kept = 0
        for allotment in given:
            if allotment != NO_ALLOTMENT:
                self._book(allotment, 1)

    def take(self, needs: Needs) -> Allotment | None:
        """Give what a replica needs, or None if it does not fit beside what is reserved."""
        gpus, cpus = self._choose_gpus(needs), self._choose_cpus(needs)
        if self._lacking(needs) or gpus is None or cpus is None:
            return None
        allotment = Allotment(needs=needs, gpu_ids=gpus, cpu_ids=cpus)
        self._book(allotment, 1)
        return allotment

    def reserve(self, needs: Needs) -> None:
        """Keep from the others what a replica needs that waits. Nothing is kept for one that will never fit."""
        if not self.can_ever_hold(needs):
            return
        for name, amount in _amounts(needs).items():
            if name in self._kept:
                self._kept[name] += amount
        self._cpus_kept += needs.own_cpus
        # Where it would run; else on those that are nearest to being free: they only get freer then, so its time comes.
        nearest = sorted(self._matching(needs), key=self._gpu_room, reverse=True)[: _count(needs)]
        for gpu in self._choose_gpus(needs) or nearest:
            self._gpu_kept[gpu] += _each(needs)

    def would_fit(self, needs: Needs, freed: Iterable[Allotment]) -> bool:
        """Whether a replica would fit beside what is reserved if these were given back."""
        freed = tuple(freed)
        for allotment in freed:
            self._book(allotment, -1)
        try:
            return self._has_room(needs)
        finally:
            for allotment in freed:
                self._book(allotment, 1)

    def can_ever_hold(self, needs: Needs) -> bool:
        """Whether a replica would fit if it were alone."""
        return Pool(self._machine)._has_room(needs)

    def explain(self, needs: Needs) -> str:
        """Return what one replica needs and what there is, of what is missing. "" if nothing is."""
        reasons = [self._explain_amount(name, needs) for name in self._lacking(needs)]
        if self._choose_gpus(needs) is None:
            reasons.append(self._explain_gpus(needs))
        if self._choose_cpus(needs) is None:
            reasons.append(self._explain_cpus(needs))
        return ", and ".join(reasons)

    def missing(self, needs: Needs) -> str:
        """Return what a replica waits for, by name: "a GPU", "memory and 2 GPUs". "" if for nothing."""
        names = [_NAMES.get(name, repr(name)) for name in self._lacking(needs)]
        if self._choose_gpus(needs) is None:
            names.append(f"{needs.gpus:g} GPUs" if needs.gpus > 1 else "a GPU")
        if self._choose_cpus(needs) is None:
            names.append(_cpus_in_words(needs))
        return " and ".join(names)

    # --- reckoning ---

    def _book(self, allotment: Allotment, sign: int) -> None:
        for name, amount in _amounts(allotment.needs).items():
            if name in self._free:
                self._free[name] -= sign * amount
        for gpu in allotment.gpu_ids:  # one that the instance does not have any more is no loss to anybody
            if gpu in self._gpu_free:
                self._gpu_free[gpu] -= sign * _each(allotment.needs)
        users = self._cpu_owners if allotment.needs.own_cpus else self._cpu_sharers
        for cpu in allotment.cpu_ids:
            if cpu in users:
                users[cpu] += sign

    def _has_room(self, needs: Needs) -> bool:
        chosen = self._choose_gpus(needs), self._choose_cpus(needs)
        return not self._lacking(needs) and None not in chosen

    def _lacking(self, needs: Needs) -> list[str]:
        """Return the names of what is not enough, GPUs aside."""
        return [
            name
            for name, amount in _amounts(needs).items()
            if (name not in self._free and name not in (_CPU, _MEMORY))
            or (name in self._free and self._free[name] - self._kept[name] < amount)
        ]

    def _choose_gpus(self, needs: Needs) -> tuple[str, ...] | None:
        """Return the GPUs for a replica, () if it needs none, None if they are not there."""
        if not needs.wants_gpus:
            return ()
        if self._machine.gpus is None:
            return None
        matching, each, count = self._matching(needs), _each(needs), _count(needs)
        if not count:  # it only has to be a machine that has one
            return () if matching else None
        fitting = [gpu for gpu in matching if self._gpu_room(gpu) >= each]
        fitting.sort(key=self._gpu_room)  # the fullest first; stable, so in the order of the mask
        return tuple(fitting[:count]) if len(fitting) >= count else None

    def _choose_cpus(self, needs: Needs) -> tuple[int, ...] | None:
        """Return the CPUs to which a replica is bound, () if to none, None if they are not there."""
        if needs.cpu_ids:
            return needs.cpu_ids if all(cpu in self._cpu_owners for cpu in needs.cpu_ids) else None
        free = [cpu for cpu, owners in self._cpu_owners.items() if not owners]
        if needs.own_cpus > max(0, len(free) - self._cpus_kept):
            return None
        # Rather those that nobody has named; sorting is stable, so lower ones first, which are often neighbours.
        return tuple(sorted(sorted(free, key=self._cpu_sharers.__getitem__)[: needs.own_cpus]))

    def _gpu_room(self, gpu: str) -> int:
        return self._gpu_free[gpu] - self._gpu_kept[gpu]

    def _matching(self, needs: Needs) -> list[str]:
        kind = needs.accelerator_type
        return [gpu.id for gpu in self._gpus.values() if not kind or is_of_type(gpu, kind)]

    # --- telling ---

    def _explain_amount(self, name: str, needs: Needs) -> str:
        wanted = _amounts(needs)[name]
        what = _quantity(name, wanted)
        if name not in self._total:
            return (
                f"needs {what}, which this instance does not have; start it with "
                f"SERVE_LITE_RESOURCES='{{\"{name}\": {_plain(wanted)}}}' or more"
            )
        if self._total[name] < wanted:
            return f"needs {what}, and there is never more than {_quantity(name, self._total[name])}"
        free = max(0, self._free[name])
        kept = " (kept for deployments that came first)" if free >= wanted else ""
        return f"needs {what}, and {_bare(name, free)} of {_quantity(name, self._total[name])} is free{kept}"

    def _explain_cpus(self, needs: Needs) -> str:
        there = len(self._cpu_owners)
        if needs.cpu_ids:
            return (
                f"is bound to {_cpus_in_words(needs)} by cpu_affinity, and this instance may use "
                f"{in_ranges(self._cpu_owners) or 'none'}"
            )
        if there < needs.own_cpus:
            return f"needs {_cpus_in_words(needs)}, and this instance may use {there}"
        free = sum(not owners for owners in self._cpu_owners.values())
        kept = " (kept for deployments that came first)" if free >= needs.own_cpus else ""
        return (
            f"needs {_cpus_in_words(needs)}, and {free} of {there} {'is' if free == 1 else 'are'} free{kept}"
        )

    def _explain_gpus(self, needs: Needs) -> str:
        if self._machine.gpus is None:
            return "needs a GPU, and the machine's GPUs are being looked for"
        what, matching = _gpus_in_words(needs), self._matching(needs)
        if needs.accelerator_type and not matching:
            found = ", ".join(
                sorted({gpu.name or f"GPU {gpu.id} of an unknown type" for gpu in self._gpus.values()})
            )
            return f"needs {what}, and this machine has {found or 'no GPU'}"
        if len(matching) < _count(needs):
            return f"needs {what}, and this machine has {len(matching) or 'none'}"
        rooms = [self._gpu_free[gpu] for gpu in matching]
        is_kept = sum(room >= _each(needs) for room in rooms) >= _count(needs)
        kept = " (kept for deployments that came first)" if is_kept else ""
        if _each(needs) < _WHOLE:
            most = _plain(max(0, *rooms, 0))
            return f"needs {what}, and the most that is free on one of {len(matching)} is {most}{kept}"
        free = sum(room == _WHOLE for room in rooms)
        return f"needs {what}, and {free} of {len(matching)} {'is' if free == 1 else 'are'} free{kept}"


def is_of_type(gpu: Gpu, accelerator_type: str) -> bool:
    """Whether a GPU is of one of Ray's accelerator types: its name has all words of it, "40G" standing for "40GB"."""
    words = {word for word in re.split(r"[^a-z0-9]+", gpu.name.lower()) if word}
    wanted = [word for word in re.split(r"[^a-z0-9]+", accelerator_type.lower()) if word]
    return all(word in words or word + "b" in words for word in wanted) and bool(wanted)


def _totals(machine: Machine) -> dict[str, int]:
    limits: Mapping[str, float | None] = {_CPU: machine.cpus, _MEMORY: machine.memory_bytes, **machine.custom}
    return {name: units(amount) for name, amount in limits.items() if amount is not None}


def _amounts(needs: Needs) -> dict[str, int]:
    """Return what is needed in units, GPUs aside."""
    amounts = {_CPU: needs.cpus, _MEMORY: needs.memory_bytes, **needs.custom}
    return {name: units(amount) for name, amount in amounts.items() if amount}


def _count(needs: Needs) -> int:
    """Return on how many GPUs a replica runs."""
    return max(1, units(needs.gpus) // _WHOLE) if needs.gpus else 0


def _each(needs: Needs) -> int:
    """Return how much of each of its GPUs a replica has."""
    return min(_WHOLE, units(needs.gpus))


def _plain(amount: int) -> str:
    return f"{amount / UNITS:.10g}"


def _bare(name: str, amount: int) -> str:
    return in_bytes(amount / UNITS) if name == _MEMORY else _plain(amount)


def _quantity(name: str, amount: int) -> str:
    """Return "2 CPUs", "1.5 GiB of memory" or "3 'slot'"."""
    if name == _MEMORY:
        return f"{in_bytes(amount / UNITS)} of memory"
    if name == _CPU:
        return f"{_plain(amount)} {'CPU' if amount == _WHOLE else 'CPUs'}"
    return f"{_plain(amount)} {name!r}"


def _gpus_in_words(needs: Needs) -> str:
    kind = f" of type {needs.accelerator_type!r}" if needs.accelerator_type else ""
    if not needs.gpus:
        return f"a machine with a GPU{kind}"
    if needs.gpus < 1:
        return f"{_plain(units(needs.gpus))} of a GPU{kind}"
    return f"{needs.gpus:g} GPU{'' if needs.gpus == 1 else 's'}{kind}"


def _cpus_in_words(needs: Needs) -> str:
    if needs.cpu_ids:
        return f"CPU{'s' if len(needs.cpu_ids) > 1 else ''} {in_ranges(needs.cpu_ids)}"
    return f"{needs.own_cpus} {'CPU' if needs.own_cpus == 1 else 'CPUs'} of its own"


def in_ranges(cpus: Iterable[int]) -> str:
    """Return "0-3,6" for numbers of CPUs, as taskset(1) writes them."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def in_bytes(amount: float) -> str:
    """Return "1.5 GiB" for a number of bytes."""
    names: Sequence[str] = ("bytes", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while amount >= 1024 and step < len(names) - 1:
        amount, step = amount / 1024, step + 1
    return f"{amount:.4g} {names[step]}"
