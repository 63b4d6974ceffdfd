"""What a running instance tells of its options: each value with who chose it, and what of a wish is not granted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serve_lite.config import ProxyLocation
from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.settings import OPTIONS
from serve_lite.daemon.sources import DEFAULT
from serve_lite.wire.messages import Setting

HIDDEN = "********"


def shown(
    options: InstanceOptions, bound: Mapping[str, int] | None = None, memory_limits: str = ""
) -> tuple[Setting, ...]:
    """Return every option with its value and who chose it, secrets hidden.

    Args:
        bound: ports that are really listened on, by field, where the kernel may have chosen.
        memory_limits: what that option has come to, "kernel" or "watched: " and why; "": nobody knows yet.
    """
    rows = [
        Setting(name="home", value=options.home, origin=_origin(options, "home", "")),
        Setting(
            name="settings_file",
            value=options.settings_file or None,
            origin=_origin(options, "settings_file", ""),
        ),
    ]
    for option in OPTIONS:
        value, default = option.value_in(options), option.value_in(_PLAIN)
        origin = _origin(options, option.id, DEFAULT if value == default else "")
        chosen = (bound or {}).get(option.field)
        if chosen is not None and chosen != value:
            value, origin = chosen, f"{origin}; {value}: the kernel chooses"
        if option.name == "memory_limits" and value == "auto" and memory_limits:
            value, _, reason = memory_limits.partition(": ")
            origin = f"{origin}; auto: {reason or 'cgroups may be made'}"
        if option.is_secret and value is not None:
            value = HIDDEN
        rows.append(Setting(name=option.name, value=value, origin=origin))
    return tuple(rows)


def differences(asked: InstanceOptions, running: Iterable[Setting]) -> list[str]:
    """Return a sentence for each option that was asked for and that a running instance has otherwise.

    What nobody asked for is passed over, and so are secrets, and what anything satisfies: port 0 and "auto".
    """
    actual = {setting.name: setting.value for setting in running}
    found = []
    for option in OPTIONS:
        origin = asked.origins.get(option.id)
        if origin is None or option.is_secret or option.name not in actual:
            continue
        wanted = option.value_in(asked)
        if _is_other(option.name, wanted, actual[option.name]):
            found.append(
                f"{option.name} stays {_said(actual[option.name])}; {_said(wanted)} ({origin}) is not applied."
            )
    return found


def _is_other(name: str, wanted: object, actual: object) -> bool:
    """Whether an option is really asked to be otherwise than it is."""
    if name == "proxy_location":
        return (wanted == ProxyLocation.Disabled) != (actual == ProxyLocation.Disabled)
    is_any = (name.endswith("port") and wanted == 0) or (name == "memory_limits" and wanted == "auto")
    return not (wanted == actual or is_any)


def _said(value: object) -> str:
    """Return a value as a sentence has it."""
    match value:
        case None | bool() | "":
            return {None: "null", True: "true", False: "false", "": '""'}[value]
        case _:
            return str(value)


def _origin(options: InstanceOptions, name: str, otherwise: str) -> str:
    return options.origins.get(name) or otherwise or "the program that started it"


_PLAIN = InstanceOptions()
