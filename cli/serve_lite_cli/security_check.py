"""`serve security-check`: tries what an attacker would, against an instance that runs."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
import typer

from serve_lite.admin.auth import is_loopback
from serve_lite.daemon.home import paths
from serve_lite.exceptions import InstanceError
from serve_lite_cli.address import control_plane, given_address, state_directory
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json, print_table
from serve_lite_cli.probes import Door
from serve_lite_cli.rest import INSTANCE, RestClient
from serve_lite_cli.safety import CHECKS, LOCAL_CHECKS, Check, Facts


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one check went."""

    name: str
    passed: bool
    about: str  #: what holds if it has passed
    problems: tuple[str, ...] = ()


def command(address: AddressOption = "", as_json: JsonOption = False) -> None:
    """Try what an attacker would against a running instance, and print what was refused as it should be.

    Changes nothing, and sends no application a request. With a state directory (the default) files and sockets are
    looked at too, with a URL only what can be asked over it. Ends with 1 if any check failed.

    With --json: {"passed": BOOL, "checks": [{"name", "passed", "about", "problems": [TEXT, ...]}]}.
    """
    named = given_address(address)
    client = control_plane(address)
    facts = facts_of(client, "" if "://" in named else state_directory(named))
    checks = {**CHECKS, **(LOCAL_CHECKS if facts.where is not None else {})}
    outcomes = [run(name, check, facts) for name, check in checks.items()]
    passed = all(outcome.passed for outcome in outcomes)
    if as_json:
        print_json({"passed": passed, "checks": msgspec.to_builtins(outcomes)})
    else:
        rows = [
            ("pass" if one.passed else "fail", one.name, "\n".join(one.problems) or one.about)
            for one in outcomes
        ]
        print_table(("RESULT", "CHECK", "WHY"), rows)
    if not passed:
        raise typer.Exit(1)


def facts_of(client: RestClient, home: str) -> Facts:
    """Return what there is to check, as the instance tells it.

    Raises:
        InstanceError: nobody answers, or no control plane does.
    """
    base = urlsplit(client.url)
    admin = Door(
        name="the control plane",
        host=base.hostname or "",
        port=base.port or (443 if base.scheme == "https" else 80),
        has_tls=base.scheme == "https",
    )
    options: dict[str, Any] = {option["name"]: option["value"] for option in client.get(INSTANCE)["options"]}
    http = None
    if home and options["http_options.host"] is not None and options["proxy_location"] != "Disabled":
        host = options["http_options.host"]
        http = Door(
            name="HTTP",
            host={"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host),
            port=options["http_options.port"],
            has_tls=bool(options["http_options.ssl_certfile"]),
        )
        if options[
            "http_options.ssl_ca_certs"
        ]:  # it talks only to clients with a certificate, which we have not
            http = None
    return Facts(
        admin=admin,
        token=client.token,
        http=http,
        where=paths(home) if home else None,
        is_exposed=not is_loopback(options["admin_host"]),
    )


def run(name: str, check: Check, facts: Facts) -> Outcome:
    """Return how a check goes.

    Raises:
        InstanceError: the instance went away meanwhile.
    """
    about = (check.__doc__ or "").strip()
    try:
        problems = tuple(check(facts))
    except OSError as error:
        raise InstanceError(f"The instance could not be asked for {name!r}: {error}.") from error
    return Outcome(name=name, passed=not problems, about=about, problems=problems)
