"""What whoever starts an instance says of the machine: how much of it replicas may be given.

Options like others (`settings.py`), in a struct of their own, since they travel to the controller as one. The GPUs
come from `CUDA_VISIBLE_DEVICES`, which is no option of ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from serve_lite import checks
from serve_lite.checks import Check, described, invalid
from serve_lite.exceptions import InvalidConfigError
from serve_lite.state.resources import MachineOptions

GPU_MASK = "CUDA_VISIBLE_DEVICES"

#: Resources that have options of their own.
OWN_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory_bytes"}

_AMOUNTS = checks.mapping_of(checks.real(at_least=0))


@described(lambda: checks.schema_of(_AMOUNTS))
def _resources(value: Any, where: str, lax: bool) -> dict[str, float]:
    """A mapping of amounts; JSON of one where text is allowed."""
    if lax and isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise invalid(
                where, f"{where} is {value!r}, which is no JSON: {error}. For example: {_EXAMPLE}."
            ) from error
    given: dict[str, float] = _AMOUNTS(value, where, False)
    for name in given:
        if name in OWN_OPTIONS:
            raise invalid(
                f"{where}.{name}", f"{where} may not hold {name!r}; {OWN_OPTIONS[name]} is the option for it."
            )
    return given


#: The options, by the fields of `MachineOptions`.
MACHINE: Mapping[str, Check] = {
    "num_cpus": checks.real(at_least=0, none=True),
    "num_gpus": checks.integer(at_least=0, none=True),
    "memory_bytes": checks.real(at_least=0, none=True),
    "resources": _resources,
}


def variable_of(option: str) -> str:
    """Return the environment variable of one of these options."""
    return f"SERVE_LITE_{option.upper()}"


def machine_options(given: Mapping[str, Any], environment: Mapping[str, str]) -> MachineOptions:
    """Return checked options, with the GPUs that the environment names.

    Raises:
        InvalidConfigError: more GPUs are asked for than it names.
    """
    mask = gpu_mask(environment.get(GPU_MASK))
    gpus = given.get("num_gpus")
    if gpus is not None and mask is not None and gpus > len(mask):
        raise InvalidConfigError(f"num_gpus is {gpus}, but {GPU_MASK} names {len(mask)}: {','.join(mask)!r}")
    return MachineOptions(**given, gpu_ids=mask)


def machine_from_environment(environment: Mapping[str, str] = os.environ) -> MachineOptions:
    """Return what the environment alone says, for instances that are started without settings.

    Raises:
        InvalidConfigError: it says something that cannot be.
    """
    texts = {option: environment.get(variable_of(option), "") for option in MACHINE}
    return machine_options(
        {o: MACHINE[o](text, variable_of(o), True) for o, text in texts.items() if text}, environment
    )


def gpu_mask(text: str | None) -> tuple[str, ...] | None:
    """Return the ids in CUDA_VISIBLE_DEVICES as CUDA reads it: up to the first that is none, each once."""
    if text is None:
        return None
    ids: list[str] = []
    for entry in text.split(","):
        name = entry.strip()
        if not name or name.startswith("-") or name in ("NoDevFiles", "none", "void"):
            break
        if name not in ids:
            ids.append(name)
    return tuple(ids)


_EXAMPLE = f"""{variable_of("resources")}='{{"slot": 2}}'"""
