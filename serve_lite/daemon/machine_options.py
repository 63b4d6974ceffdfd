"""What the environment of whoever starts an instance says of the machine."""

from __future__ import annotations

import math
import os

import msgspec

from serve_lite.exceptions import InvalidConfigError
from serve_lite.state.resources import MachineOptions

CPUS, GPUS, MEMORY = "SERVE_LITE_NUM_CPUS", "SERVE_LITE_NUM_GPUS", "SERVE_LITE_MEMORY_BYTES"
RESOURCES = "SERVE_LITE_RESOURCES"
GPU_MASK = "CUDA_VISIBLE_DEVICES"

#: Resources that have options of their own.
OWN_OPTIONS = {"CPU": CPUS, "GPU": GPUS, "memory": MEMORY}


def machine_from_environment() -> MachineOptions:
    """Return what the environment says.

    Raises:
        InvalidConfigError: it says something that cannot be.
    """
    mask = _gpu_mask(os.environ.get(GPU_MASK))
    gpus = _number(GPUS, "a number of GPUs, 0 or more")
    if gpus is not None and not gpus.is_integer():
        raise InvalidConfigError(f"{GPUS} must be a whole number, not {os.environ[GPUS]!r}")
    if gpus is not None and mask is not None and gpus > len(mask):
        raise InvalidConfigError(
            f"{GPUS} is {gpus:.0f}, but {GPU_MASK} names {len(mask)}: {','.join(mask)!r}"
        )
    return MachineOptions(
        num_cpus=_number(CPUS, "a number of CPUs, 0 or more"),
        num_gpus=None if gpus is None else int(gpus),
        memory_bytes=_number(MEMORY, "a number of bytes"),
        resources=_resources(),
        gpu_ids=mask,
    )


def _number(name: str, expected: str) -> float | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise InvalidConfigError(f"{name} must be {expected}, not {text!r}")
    return number


def _resources() -> dict[str, float]:
    text = os.environ.get(RESOURCES, "")
    if not text:
        return {}
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidConfigError(f"{RESOURCES} is no JSON: {error}. {_EXAMPLE}") from error
    if not isinstance(given, dict):
        raise InvalidConfigError(f"{RESOURCES} must be a JSON object, not {text!r}. {_EXAMPLE}")
    for name, amount in given.items():
        if name in OWN_OPTIONS:
            raise InvalidConfigError(f"{RESOURCES} may not hold {name!r}; give it as {OWN_OPTIONS[name]}.")
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not is_number or not math.isfinite(amount) or amount < 0:
            raise InvalidConfigError(f"{RESOURCES}: {name!r} must be a number, 0 or more, not {amount!r}.")
    return {name: float(amount) for name, amount in given.items()}


def _gpu_mask(text: str | None) -> tuple[str, ...] | None:
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


_EXAMPLE = f"""For example: {RESOURCES}='{{"slot": 2}}'."""
