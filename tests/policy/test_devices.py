"""The arithmetic of resources: who fits, what is given, and what is told if somebody does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.policy.devices import UNITS, Pool, in_bytes, is_of_type, units
from serve_lite.state.resources import Allotment, Gpu, Machine, Needs, needs_of

TWO_GPUS = Machine(cpus=4, memory_bytes=8 * 2**30, gpus=(Gpu(id="0"), Gpu(id="1")), custom={"slot": 2})


def gpus(amount: float, **more: Any) -> Needs:
    return Needs(gpus=amount, **more)


def taken(pool: Pool, needs: Needs) -> tuple[str, ...]:
    allotment = pool.take(needs)
    assert allotment is not None
    return allotment.gpu_ids


def test_only_what_is_asked_for_counts() -> None:
    assert needs_of({}).is_nothing
    assert needs_of({"runtime_env": {"env_vars": {"A": "1"}}, "num_gpus": 0, "memory": None}).is_nothing
    given = {"num_cpus": 2, "num_gpus": 0.5, "memory": 1024, "resources": {"slot": 1, "none": 0}}
    assert needs_of(given).shown() == {"CPU": 2, "GPU": 0.5, "memory": 1024, "slot": 1}


def test_shares_pack_onto_the_gpu_with_the_least_room_that_is_enough() -> None:
    pool = Pool(TWO_GPUS)
    assert taken(pool, gpus(0.5)) == ("0",)
    assert taken(pool, gpus(0.6)) == ("1",)
    assert taken(pool, gpus(0.4)) == ("1",), "0.4 fits exactly there, and leaves the other half whole"
    assert taken(pool, gpus(0.5)) == ("0",)
    assert pool.take(gpus(0.0001)) is None


def test_ten_tenths_are_one() -> None:
    pool = Pool(Machine(gpus=(Gpu(id="0"),)))
    assert [taken(pool, gpus(0.1)) for _ in range(10)] == [("0",)] * 10
    assert pool.take(gpus(0.1)) is None


def test_whole_gpus_are_those_that_nobody_uses() -> None:
    pool = Pool(TWO_GPUS)
    taken(pool, gpus(0.1))
    assert taken(pool, gpus(1)) == ("1",)
    assert Pool(TWO_GPUS).take(gpus(2)) == Allotment(needs=gpus(2), gpu_ids=("0", "1"))


def test_what_replicas_have_is_not_given_again_even_if_the_gpu_is_not_there_any_more() -> None:
    pool = Pool(
        TWO_GPUS, [Allotment(needs=gpus(1), gpu_ids=("1",)), Allotment(needs=gpus(1), gpu_ids=("7",))]
    )
    assert taken(pool, gpus(1)) == ("0",)


def test_a_gpu_of_a_type_is_chosen_by_the_words_of_its_name() -> None:
    machine = Machine(gpus=(Gpu(id="0", name="Tesla T4"), Gpu(id="1", name="NVIDIA A100-SXM4-80GB")))
    assert taken(Pool(machine), gpus(1, accelerator_type="A100")) == ("1",)
    assert taken(Pool(machine), gpus(0.5, accelerator_type="A100-80G")) == ("1",)
    assert taken(Pool(machine), Needs(accelerator_type="T4")) == (), (
        "without an amount it only has to be there"
    )
    assert Pool(machine).take(gpus(1, accelerator_type="H100")) is None
    assert not is_of_type(Gpu(id="0", name="NVIDIA L40"), "L4")
    assert not is_of_type(Gpu(id="0"), "T4")


@pytest.mark.parametrize(
    ("machine", "needs", "said"),
    [
        (TWO_GPUS, gpus(3), "needs 3 GPUs, and this machine has 2"),
        (Machine(), gpus(1), "needs 1 GPU, and this machine has none"),
        (Machine(gpus=None), gpus(1), "needs a GPU, and the machine's GPUs are being looked for"),
        (TWO_GPUS, Needs(cpus=5), "needs 5 CPUs, and there is never more than 4 CPUs"),
        (
            TWO_GPUS,
            Needs(memory_bytes=9 * 2**30),
            "needs 9 GiB of memory, and there is never more than 8 GiB of memory",
        ),
        (TWO_GPUS, Needs(custom={"slot": 3}), "needs 3 'slot', and there is never more than 2 'slot'"),
        (
            TWO_GPUS,
            Needs(custom={"license": 1}),
            "needs 1 'license', which this instance does not have; start it with "
            "SERVE_LITE_RESOURCES='{\"license\": 1}' or more",
        ),
        (
            Machine(gpus=(Gpu(id="0", name="Tesla T4"),)),
            gpus(1, accelerator_type="A100"),
            "needs 1 GPU of type 'A100', and this machine has Tesla T4",
        ),
        (
            Machine(),
            Needs(accelerator_type="A100"),
            "needs a machine with a GPU of type 'A100', and this machine has no GPU",
        ),
        (
            Machine(cpus=1),
            Needs(cpus=2, gpus=0.5),
            "needs 2 CPUs, and there is never more than 1 CPU, and needs 0.5 of a GPU, and this machine has none",
        ),
    ],
)  # fmt: skip
def test_what_never_fits_is_told_with_what_there_is(machine: Machine, needs: Needs, said: str) -> None:
    pool = Pool(machine)
    assert pool.take(needs) is None
    assert pool.explain(needs) == said
    assert machine.gpus is None or not pool.can_ever_hold(needs)


def test_what_does_not_fit_now_is_told_with_what_is_free() -> None:
    pool = Pool(TWO_GPUS)
    for needs in (gpus(0.6, cpus=3.5), gpus(0.7, memory_bytes=7.5 * 2**30), Needs(custom={"slot": 1.5})):
        taken(pool, needs)
    assert pool.explain(gpus(1)) == "needs 1 GPU, and 0 of 2 are free"
    assert pool.explain(gpus(0.5)) == "needs 0.5 of a GPU, and the most that is free on one of 2 is 0.4"
    assert pool.explain(Needs(cpus=1)) == "needs 1 CPU, and 0.5 of 4 CPUs is free"
    assert (
        pool.explain(Needs(memory_bytes=2**30))
        == "needs 1 GiB of memory, and 512 MiB of 8 GiB of memory is free"
    )
    assert pool.explain(Needs(custom={"slot": 1})) == "needs 1 'slot', and 0.5 of 2 'slot' is free"
    assert pool.explain(Needs(cpus=0.5)) == ""


def test_what_is_kept_for_the_first_is_not_given_to_the_next_who_is_told_so() -> None:
    pool = Pool(TWO_GPUS)
    taken(pool, gpus(1))
    assert pool.take(gpus(2)) is None
    pool.reserve(gpus(2))
    assert pool.take(gpus(1)) is None
    assert pool.explain(gpus(1)) == "needs 1 GPU, and 1 of 2 is free (kept for deployments that came first)"
    assert pool.take(gpus(0.1)) is None
    assert taken(pool, Needs(cpus=1)) == (), "nobody waits for that"


def test_nothing_is_kept_for_one_that_will_never_fit() -> None:
    pool = Pool(TWO_GPUS)
    pool.reserve(gpus(3, cpus=4))
    pool.reserve(Needs(cpus=4, custom={"nothing": 1}))
    assert taken(pool, gpus(2, cpus=4)) == ("0", "1")


def test_whether_one_would_fit_changes_nothing() -> None:
    held = Allotment(needs=gpus(1), gpu_ids=("0",))
    pool = Pool(TWO_GPUS, [held])
    assert pool.would_fit(gpus(2), [held]) and not pool.would_fit(gpus(2), [])
    assert pool.take(gpus(2)) is None


def test_numbers_of_bytes_are_read_by_people() -> None:
    assert [in_bytes(n) for n in (0, 512, 2048, 1.5 * 2**30)] == ["0 bytes", "512 bytes", "2 KiB", "1.5 GiB"]


shares = st.sampled_from([0.0001, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.75, 1.0])
some_needs = st.builds(
    Needs,
    cpus=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]),
    gpus=st.one_of(st.just(0.0), shares, st.sampled_from([2.0, 3.0])),
    memory_bytes=st.sampled_from([0.0, 1.0, 2.0**30]),
    custom=st.sampled_from([{}, {"slot": 1.0}, {"slot": 0.3}]),
    own_cpus=st.sampled_from([0, 0, 1, 2]),
)
machines = st.builds(
    Machine,
    cpus=st.sampled_from([None, 1.0, 4.0]),
    memory_bytes=st.sampled_from([None, 4.0 * 2**30]),
    gpus=st.sampled_from([(), ("0",), ("2", "GPU-a"), ("MIG-1", "MIG-2", "MIG-3")]).map(
        lambda ids: tuple(Gpu(id=i) for i in ids)
    ),
    custom=st.sampled_from([{}, {"slot": 2.0}]),
    cpu_ids=st.sampled_from([(0, 1), (0, 2, 5), (0, 1, 2, 3)]),
)


def is_within(machine: Machine, held: list[Allotment]) -> bool:
    """Whether these do not have more than there is, reckoned from the values alone."""
    totals = {"CPU": machine.cpus, "memory": machine.memory_bytes, **machine.custom}
    for name, total in totals.items():
        used = sum(units(a.needs.shown().get(name, 0)) for a in held)
        if total is not None and used > units(total):
            return False
    owned = [cpu for allotment in held if allotment.needs.own_cpus for cpu in allotment.cpu_ids]
    if len(owned) > len(set(owned)) or not set(owned) <= set(machine.cpu_ids):
        return False
    used_of: dict[str, int] = {}
    for allotment in held:
        for gpu in allotment.gpu_ids:
            used_of[gpu] = used_of.get(gpu, 0) + min(UNITS, units(allotment.needs.gpus))
    return all(used <= UNITS for used in used_of.values()) and set(used_of) <= {
        g.id for g in machine.gpus or ()
    }


@given(machines, st.lists(st.tuples(some_needs, st.booleans(), st.integers(0, 50)), max_size=40))
def test_never_is_more_given_than_there_is_and_all_comes_back(
    machine: Machine, history: list[tuple[Needs, bool, int]]
) -> None:
    held: list[Allotment] = []
    for needs, somebody_leaves, who in history:
        if somebody_leaves and held:
            held.pop(who % len(held))
        pool = Pool(machine, held)
        allotment = pool.take(needs)
        if allotment is None:
            assert pool.explain(needs), "a refusal without a reason"
        else:
            assert allotment.needs == needs
            assert (
                len(allotment.gpu_ids)
                == len(set(allotment.gpu_ids))
                == (max(1, int(needs.gpus)) if needs.gpus else 0)
            )
            assert len(allotment.cpu_ids) == needs.own_cpus
            held.append(allotment)
        assert is_within(machine, held)
        assert (Pool(machine).take(needs) is not None) == pool.can_ever_hold(needs)


@given(
    machines,
    some_needs,
    st.lists(some_needs, min_size=1, max_size=60),
    st.lists(st.integers(0, 50), max_size=10),
)
def test_who_waits_gets_its_turn_though_others_never_stop_coming(
    machine: Machine, big: Needs, others: list[Needs], first: list[int]
) -> None:
    """Everybody leaves some time, the one that has been there longest first; in each step one more wants to come."""
    if not Pool(machine).can_ever_hold(big):
        return
    held: list[Allotment] = []
    for which in first:
        before = Pool(machine, held).take(others[which % len(others)])
        held += [before] if before is not None else []
    for step in range(len(held) + 1):
        pool = Pool(machine, held)
        if pool.take(big) is not None:
            return
        pool.reserve(big)
        late = pool.take(others[step % len(others)])
        held = held[1:] + ([late] if late is not None else [])
    # All that were there before it have left: what came since may not be in its way.
    raise AssertionError(f"it is still waiting beside {held}")


# --- CPUs of a replica's own --------------------------------------------------------------------

FOUR_CPUS = Machine(cpus=8, cpu_ids=(0, 1, 2, 5))


def own(count: int) -> Needs:
    return needs_of({"num_cpus": count}, "own")


def bound(pool: Pool, needs: Needs) -> tuple[int, ...]:
    allotment = pool.take(needs)
    assert allotment is not None
    return allotment.cpu_ids


def test_who_is_bound_to_cpus_of_its_own_has_them_alone() -> None:
    pool = Pool(FOUR_CPUS)
    assert [bound(pool, own(1)), bound(pool, own(2)), bound(pool, own(1))] == [(0,), (1, 2), (5,)]
    assert pool.take(own(1)) is None
    assert pool.explain(own(1)) == "needs 1 CPU of its own, and 0 of 4 are free"
    assert pool.missing(own(2)) == "2 CPUs of its own"
    assert bound(pool, Needs(cpus=1)) == (), "who is bound to none may still run"


def test_it_is_not_the_budget_that_says_how_many_cpus_can_be_bound_to() -> None:
    assert Pool(FOUR_CPUS).explain(own(5)) == "needs 5 CPUs of its own, and this instance may use 4"
    assert not Pool(FOUR_CPUS).can_ever_hold(own(5)) and Pool(FOUR_CPUS).can_ever_hold(own(4))


def test_cpus_that_are_named_are_shared_and_left_to_those_who_named_them() -> None:
    named = needs_of({}, [0, 1])
    pool = Pool(FOUR_CPUS)
    assert bound(pool, named) == bound(pool, named) == (0, 1)
    assert bound(pool, own(1)) == (2,), "there are others that nobody has named"
    assert bound(pool, own(2)) == (0, 5) and bound(pool, named) == (0, 1)
    elsewhere = needs_of({}, [1, 6, 7, 9])
    assert pool.take(elsewhere) is None and not pool.can_ever_hold(elsewhere)
    assert pool.explain(elsewhere) == (
        "is bound to CPUs 1,6-7,9 by cpu_affinity, and this instance may use 0-2,5"
    )
    assert pool.missing(needs_of({}, [7])) == "CPU 7"


def test_cpus_come_back_and_are_kept_for_who_came_first() -> None:
    held = [Allotment(needs=own(2), cpu_ids=(0, 1)), Allotment(needs=own(1), cpu_ids=(7,))]
    pool = Pool(FOUR_CPUS, held)
    assert pool.take(own(3)) is None and pool.would_fit(own(3), held[:1])
    pool.reserve(own(2))
    assert pool.take(own(1)) is None, "both that are free are kept"
    assert pool.explain(own(1)) == (
        "needs 1 CPU of its own, and 2 of 4 are free (kept for deployments that came first)"
    )


def test_only_own_cpus_need_their_number_from_num_cpus() -> None:
    assert needs_of({"num_cpus": 2}, "own").own_cpus == 2
    assert needs_of({"num_cpus": 2}, [3]) == Needs(cpus=2, cpu_ids=(3,))
    assert needs_of({"num_cpus": 2}) == Needs(cpus=2)


@pytest.mark.parametrize(
    ("needs", "name"),
    [
        (gpus(1), "a GPU"),
        (gpus(0.5), "a GPU"),
        (gpus(2), "2 GPUs"),
        (Needs(cpus=5), "a CPU"),
        (Needs(memory_bytes=2**40, gpus=1), "memory and a GPU"),
        (Needs(custom={"slot": 3}), "'slot'"),
    ],
)
def test_what_is_missing_has_a_short_name(needs: Needs, name: str) -> None:
    pool = Pool(TWO_GPUS, [Allotment(needs=gpus(1), gpu_ids=(gpu,)) for gpu in ("0", "1")])
    assert pool.missing(needs) == name
    assert Pool(TWO_GPUS, []).missing(gpus(2)) == ""
