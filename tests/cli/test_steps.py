"""What is told of a deploy, from answers of REST; and which of it a terminal has room for."""

from __future__ import annotations

import io
from typing import Any

from serve_lite_cli.live import fitting, lines_of
from serve_lite_cli.progress import Lines, display_on
from serve_lite_cli.steps import Step, seconds_of, steps_of

DEPLOYED = 1000.0


def replica(name: str = "abc", state: str = "STARTING", **fields: Any) -> dict[str, Any]:
    return {
        "replica_id": name, "state": state, "start_time_s": DEPLOYED + 1, "phase": "importing", "phase_note": "",
        "phase_started_s": DEPLOYED + 2, "phases": {}, "failed_in": None, "last_error": "", **fields,
    }  # fmt: skip


def shop(
    *replicas: dict[str, Any], dead: tuple[dict[str, Any], ...] = (), message: str = "", **app: Any
) -> dict[str, Any]:
    """Return the answer for one application with one deployment."""
    deployment = {
        "status": "UPDATING", "message": message, "replicas": list(replicas), "recent_dead_replicas": list(dead),
    }  # fmt: skip
    return {
        "shop": {
            "status": "DEPLOYING", "message": "", "last_deployed_time_s": DEPLOYED, "phase": None,
            "phase_started_s": None, "phases": {}, "deployments": {"Model": deployment}, **app,
        }
    }  # fmt: skip


def said(apps: dict[str, Any]) -> dict[str, str]:
    return {who: str(step) for who, step in steps_of(apps).items()}


def test_each_phase_is_told_with_the_seconds_of_those_before() -> None:
    phases = {"starting process": 0.01, "importing": 0.84, "constructor": 2.1}
    assert said(shop(replica(phase="reconfigure", phases=phases)))["shop/Model abc"] == (
        "importing 0.8 s, constructor 2.1 s, reconfigure"
    )
    assert said(shop(replica(state="RUNNING", phase="ready", phases=phases)))["shop/Model abc"] == (
        "importing 0.8 s, constructor 2.1 s, running"
    )


def test_a_replica_from_before_the_deploy_is_not_told_as_if_it_had_started_now() -> None:
    old = replica(state="RUNNING", phases={"constructor": 9.0}, start_time_s=DEPLOYED - 50)
    dead = replica("old", "STOPPED", last_error="ValueError: long ago", start_time_s=DEPLOYED - 60)
    assert said(shop(old, dead=(dead,))) == {
        "shop": "DEPLOYING",
        "shop/Model": "UPDATING",
        "shop/Model abc": "running",
    }


def test_a_failed_start_ends_with_the_users_exception() -> None:
    error = "Traceback (most recent call last):\n  ...\nValueError: no model (at shop.py:3)"
    failed = replica(state="STOPPING", phases={"constructor": 2.1}, failed_in="constructor", last_error=error)
    text = "constructor 2.1 s, failed: ValueError: no model (at shop.py:3)"
    assert said(shop(failed))["shop/Model abc"] == text
    assert said(shop(dead=({**failed, "state": "STOPPED"},)))["shop/Model abc"] == text


def test_a_start_that_a_signal_ended_says_so_and_not_the_last_line_it_printed() -> None:
    error = (
        "The replica's process ended while it was starting: it was killed by SIGKILL. Its last output:\nhello"
    )
    failed = replica(state="STOPPED", failed_in="constructor", last_error=error)
    assert said(shop(dead=(failed,)))["shop/Model abc"].endswith("it was killed by SIGKILL.")


def test_what_holds_a_deployment_up_is_told() -> None:
    assert said(shop(message="1 replica waits: 1 GPU is needed and 0 of 2 are free.\nmore"))[
        "shop/Model"
    ] == ("UPDATING: 1 replica waits: 1 GPU is needed and 0 of 2 are free.")


def test_while_it_is_built_an_application_is_all_there_is_to_tell() -> None:
    building = shop(replica(state="RUNNING"), phase="importing", phase_started_s=DEPLOYED)
    assert said(building) == {"shop": "importing"}
    assert said(shop(phases={"importing": 3.2}))["shop"] == "importing 3.2 s, DEPLOYING"


def test_an_instance_that_tells_no_phases_is_understood_too() -> None:
    bare = {"replica_id": "abc", "state": "STARTING", "start_time_s": DEPLOYED + 1}
    apps = shop(bare)
    for name in ("phase", "phase_started_s", "phases"):
        del apps["shop"][name]
    assert said(apps)["shop/Model abc"] == "starting"


def test_lines_tell_each_change_once_and_parts_before_the_whole() -> None:
    lines: list[str] = []
    display = Lines(lines.append)
    for phase in ("importing", "importing", "constructor"):
        display.show(steps_of(shop(replica(phase=phase))))
    assert lines == [
        "shop/Model abc: importing",
        "shop/Model: UPDATING",
        "shop: DEPLOYING",
        "shop/Model abc: constructor",
    ]


def test_programs_get_the_seconds() -> None:
    apps = shop(replica(phases={"importing": 0.84}), phases={"importing": 3.2})
    assert seconds_of(apps) == {
        "builds": {"shop": {"importing": 3.2}},
        "replicas": {"shop": {"Model": {"abc": {"importing": 0.84}}}},
    }


def test_what_is_no_terminal_gets_lines() -> None:
    assert isinstance(display_on(io.StringIO(), print), Lines)
    assert isinstance(display_on(None, print), Lines)


def test_a_terminal_shows_how_long_it_takes_and_took() -> None:
    waiting = shop(replica(phases={"importing": 0.84}, phase="constructor"))
    texts = [line.plain for line in lines_of(list(steps_of(waiting).values()), DEPLOYED + 6.5)]
    assert texts == [
        "shop     DEPLOYING    6.5 s",
        "  Model  UPDATING",
        "    abc  constructor  4.5 s  importing 0.8 s",
    ]
    ready = shop(
        replica(state="RUNNING", phase="ready", phases={"importing": 0.84, "constructor": 1.0}),
        status="RUNNING",
    )
    assert lines_of(list(steps_of(ready).values()), DEPLOYED + 99)[0].plain.split() == [
        "shop",
        "RUNNING",
        "2.0",
        "s",
    ]


def test_a_small_terminal_shows_what_is_waited_for_and_what_failed() -> None:
    def step(name: str, **fields: Any) -> Step:
        return Step(level=0, name=name, now="", **fields)

    steps = [
        step("done", is_settled=True),
        step("busy"),
        step("broken", is_settled=True, has_failed=True),
        step("ready", is_settled=True),
    ]
    assert [s.name for s in fitting(steps, 2)] == ["busy", "broken"]
    assert [s.name for s in fitting(steps, 3)] == ["done", "busy", "broken"]
    assert fitting(steps, 9) == steps
    assert fitting(steps, -1) == []
