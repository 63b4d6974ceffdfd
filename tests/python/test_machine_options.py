"""What the environment says of the machine, and what it may not say."""

from __future__ import annotations

import pytest

from serve_lite.daemon.machine_options import machine_from_environment
from serve_lite.daemon.sources import resolve
from serve_lite.exceptions import InvalidConfigError
from serve_lite.state.resources import MachineOptions

NAMES = ("SERVE_LITE_NUM_CPUS", "SERVE_LITE_NUM_GPUS", "SERVE_LITE_MEMORY_BYTES", "SERVE_LITE_RESOURCES")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_word_everything_is_found_out() -> None:
    assert machine_from_environment() == MachineOptions()


def test_the_environment_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in zip(NAMES, ("2.5", "3", "1e9", '{"slot": 2, "license": 0.5}'), strict=True):
        monkeypatch.setenv(name, text)
    assert machine_from_environment() == MachineOptions(
        num_cpus=2.5, num_gpus=3, memory_bytes=1e9, resources={"slot": 2.0, "license": 0.5}
    )


@pytest.mark.parametrize(
    ("mask", "ids"),
    [
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1,0", ("1", "0")),
        ("0, 2 ,-1,3", ("0", "2")),
        ("1,1,2", ("1", "2")),
        ("GPU-5d5b,MIG-c6d4f1ef-42e4", ("GPU-5d5b", "MIG-c6d4f1ef-42e4")),
        ("MIG-GPU-8932f937/1/2", ("MIG-GPU-8932f937/1/2",)),
    ],
)
def test_the_mask_is_read_as_cuda_reads_it(
    mask: str, ids: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert machine_from_environment().gpu_ids == ids


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("SERVE_LITE_NUM_CPUS", "many", "SERVE_LITE_NUM_CPUS is 'many'; it must be a number, at least 0 or null."),
        ("SERVE_LITE_NUM_CPUS", "-1", "at least 0"),
        ("SERVE_LITE_NUM_CPUS", "nan", "SERVE_LITE_NUM_CPUS is 'nan'; it must be a number"),
        ("SERVE_LITE_NUM_GPUS", "1.5", "SERVE_LITE_NUM_GPUS is '1.5'; it must be an integer"),
        ("SERVE_LITE_MEMORY_BYTES", "2GiB", "SERVE_LITE_MEMORY_BYTES is '2GiB'; it must be a number"),
        ("SERVE_LITE_RESOURCES", "slot=2", "SERVE_LITE_RESOURCES is 'slot=2', which is no JSON"),
        ("SERVE_LITE_RESOURCES", "[2]", "SERVE_LITE_RESOURCES is [2]; it must be a mapping"),
        ("SERVE_LITE_RESOURCES", '{"slot": "2"}', "SERVE_LITE_RESOURCES.slot is '2'; it must be a number"),
        ("SERVE_LITE_RESOURCES", '{"slot": true}', "SERVE_LITE_RESOURCES.slot is True; it must be a number"),
        ("SERVE_LITE_RESOURCES", '{"GPU": 2}', "may not hold 'GPU'; num_gpus is the option for it"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_starts(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    for read in (machine_from_environment, resolve):
        with pytest.raises(InvalidConfigError) as caught:
            read()
        assert said in str(caught.value)


def test_more_gpus_than_the_mask_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.setenv("SERVE_LITE_NUM_GPUS", "2")
    with pytest.raises(InvalidConfigError, match="num_gpus is 2, but CUDA_VISIBLE_DEVICES names 1: '4'"):
        machine_from_environment()


def test_the_gpus_of_the_mask_are_in_the_options_of_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("SERVE_LITE_NUM_GPUS", "1")
    assert resolve().machine == machine_from_environment() == MachineOptions(num_gpus=1, gpu_ids=("3", "5"))
    with pytest.raises(InvalidConfigError, match="num_gpus is 3, but CUDA_VISIBLE_DEVICES names 2"):
        monkeypatch.setenv("SERVE_LITE_NUM_GPUS", "3")
        resolve()
