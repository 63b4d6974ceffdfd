"""How a deploy goes, told as it happens: phases of applications, deployments and replicas.

What there is to tell is found in `steps.py`. A terminal gets a display that changes in place (`live.py`), everything
else a line for each change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TextIO

from serve_lite.exceptions import RayServeException
from serve_lite_cli.rest import APPLICATIONS, RestClient
from serve_lite_cli.steps import FAILED, Step, steps_of

#: The control plane is asked this often; REST has no way to be told.
LOOK_EVERY_S = 0.1


class Display(Protocol):
    """Where a deploy is shown."""

    def show(self, steps: Mapping[str, Step]) -> None: ...
    def close(self) -> None: ...


class Lines:
    """Tells each change once, as a line of text."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._shown: dict[str, str] = {}

    def show(self, steps: Mapping[str, Step]) -> None:
        """Tell what has changed since the last time: replicas first, then what they belong to."""
        for who, step in sorted(steps.items(), key=lambda item: -item[1].level):
            said = str(step)
            if self._shown.get(who) != said:
                self._shown[who] = said
                self._show(f"{who}: {said}")

    def close(self) -> None:
        """All is told already."""

    def __contains__(self, who: str) -> bool:
        """Whether something was told of this one."""
        return who in self._shown


def follow_deploy(
    client: RestClient,
    names: Collection[str],
    show: Callable[[str], None],
    *,
    timeout_s: float | None = None,
    screen: TextIO | None = None,
) -> dict[str, Any]:
    """Show each new phase until none of the applications is being deployed; return their details.

    Args:
        show: prints a line.
        screen: what it prints to; if that is a terminal, it gets a live display instead of lines.

    Raises:
        RayServeException: one failed, was deleted meanwhile, or the time is over; what was deployed stays.
    """
    display = display_on(screen, show)
    try:
        apps = _follow(client, names, display, timeout_s)
    finally:
        display.close()
    check(apps)
    return apps


def display_on(screen: TextIO | None, show: Callable[[str], None]) -> Display:
    """Return how to show a deploy on this stream."""
    if screen is None or not screen.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return Lines(show)
    from serve_lite_cli.live import LiveDisplay  # loads rich, which only a terminal needs

    return LiveDisplay(screen)


def _follow(
    client: RestClient, names: Collection[str], display: Display, timeout_s: float | None
) -> dict[str, Any]:
    give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
    while True:  # ends with the deploy, which the instance brings to an end, or with the time
        apps = client.get(APPLICATIONS)["applications"]
        wanted = {name: apps[name] for name in names if name in apps}
        display.show(steps_of(wanted))
        if missing := [name for name in names if name not in apps or apps[name]["status"] == "DELETING"]:
            raise RayServeException(f"Deleted by somebody else meanwhile: {', '.join(missing)}.")
        if not any(app["status"] == "DEPLOYING" for app in wanted.values()):
            return wanted
        if give_up_at is not None and time.monotonic() > give_up_at:
            waiting = [name for name, app in wanted.items() if app["status"] == "DEPLOYING"]
            raise RayServeException(
                f"Not ready after {timeout_s:g} s: {', '.join(waiting)}. The deploy goes on."
            )
        time.sleep(LOOK_EVERY_S)


def check(apps: dict[str, Any]) -> None:
    """Raise if an application failed.

    Raises:
        RayServeException: with what each of them says.
    """
    failed = {name: app for name, app in apps.items() if app["status"] in FAILED}
    if failed:
        said = [f"Application '{name}' is {app['status']}: {app['message']}" for name, app in failed.items()]
        raise RayServeException("\n".join(said))
