"""The texts of systemd units. Pure: facts in, files out."""

from __future__ import annotations

from typing import Final

import msgspec

from serve_lite.daemon.home import paths

#: Longer than any instance's replicas take to end by default; systemd kills what is left then.
_STOP_S: Final = 120


class UnitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What units say about one instance."""

    python: str  #: interpreter that has serve-lite installed
    home: str  #: state directory, absolute
    user: str = ""  #: whose instance the machine's systemd runs; "": the units are a user's own
    settings: str = ""  #: settings file; "": none was named
    http: str = ""  #: host:port; "": no HTTP
    admin: str = ""
    grpc: str = ""
    backlog: int = 4096


def units(facts: UnitFacts, *, with_sockets: bool) -> dict[str, str]:
    """Return the unit files by name: a service, and with `with_sockets` a unit for each socket."""
    if not with_sockets:
        return {"serve-lite.service": _service(facts, {})}
    places = {
        "control": paths(facts.home).control,
        "admin": facts.admin,
        "http": facts.http,
        "grpc": facts.grpc,
    }
    sockets = {f"serve-lite-{name}.socket": _socket(facts, name, at) for name, at in places.items() if at}
    return {"serve-lite.service": _service(facts, sockets), **sockets}


def _service(facts: UnitFacts, sockets: dict[str, str]) -> str:
    names = " ".join(sockets)
    unit = ["Description=serve-lite"]
    unit += [f"Requires={names}", f"After=network.target {names}"] if sockets else ["After=network.target"]
    module = "serve_lite.daemon.entry" if sockets else "serve_lite.daemon.keeper"
    service = [
        # A keeper has no more to tell than that it runs; a daemon tells when it serves.
        "Type=notify" if sockets else "Type=exec",
        f"ExecStart={_word(facts.python)} -P -m {module}",
        "ExecReload=/bin/kill -HUP $MAINPID",  # certificates and log files
        f"Environment={_word('SERVE_LITE_HOME=' + facts.home)}",
    ]
    if facts.settings:
        service.append(f"Environment={_word('SERVE_LITE_SETTINGS=' + facts.settings)}")
    if facts.user:
        service.append(f"User={facts.user}")
    service += [
        "Restart=on-failure",
        "RestartPreventExitStatus=78",  # it would only fail again
        # A daemon that crashed leaves its replicas to the next one; a keeper ends everything itself.
        f"KillMode={'process' if sockets else 'mixed'}",
        f"TimeoutStopSec={_STOP_S}",
        "Delegate=memory",  # replicas with a limit get cgroups below the service's
        "OOMPolicy=continue",  # one that the kernel has ended for its memory is replaced; the others go on
        "LimitNOFILE=1048576" if facts.user else "LimitNOFILE=524288",
    ]
    install = ["WantedBy=multi-user.target" if facts.user else "WantedBy=default.target"]
    return _text(Unit=unit, Service=service, Install=install)


def _socket(facts: UnitFacts, name: str, at: str) -> str:
    lines = [
        f"ListenStream={at.replace('%', '%%')}",
        f"FileDescriptorName={name}",
        "Service=serve-lite.service",
        f"Backlog={facts.backlog if name in ('http', 'grpc') else 128}",
    ]
    if name == "control":
        lines += ["SocketMode=0600", "DirectoryMode=0700"]
        if facts.user:
            lines.append(f"SocketUser={facts.user}")
    return _text(
        Unit=[f"Description=serve-lite: {name} socket"], Socket=lines, Install=["WantedBy=sockets.target"]
    )


def _text(**sections: list[str]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items()
    )


def _word(text: str) -> str:
    """Return a word as systemd.syntax(7) wants it."""
    text = text.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(c.isspace() for c in text) or "\\" in text or "'" in text else text
