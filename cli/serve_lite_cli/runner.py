"""What `serve run` does: find out what to run, start an instance or join the one that is up, and stay.

The way to the launch of an instance is kept short: what is not needed for it is loaded after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from serve_lite.daemon.options import InstanceOptions
from serve_lite.engines.launch import AlreadyUpError, start_instance
from serve_lite.exceptions import InstanceError
from serve_lite.wire.messages import InstanceInfo
from serve_lite_cli.address import home_origin, local_home
from serve_lite_cli.listeners import (
    explain_port_in_use,
    instance_options,
    layer_of_flags,
    warn_of_differences,
)
from serve_lite_cli.plan import (
    Plan,
    is_config_file,
    parse_arguments,
    plan_config_file,
    plan_import_path,
    read_runtime_env,
)
from serve_lite_cli.quick import RunOptions


def run(asked: RunOptions) -> int:
    """Run what was asked for; return the exit code.

    Raises:
        ServeLiteError: something asked for is wrong, or no instance can be started; nothing was deployed.
    """
    home = local_home(asked.address)
    plan = plan_from(asked)
    flags = layer_of_flags(
        {
            "http_options.host": ("--host", asked.host),
            "http_options.port": ("--port", asked.port),
            "admin_port": ("--admin-port", asked.admin_port),
        }
    )
    options = instance_options(
        home,
        flags,
        plan.document,
        home_origin=home_origin(asked.address),
        document_name=plan.config_name,
        settings=asked.settings,
        folder=plan.folder,
    )
    info, started = start_or_join(options, owner_pid=os.getpid() if asked.blocking else None)
    if not started:
        print("An instance is already running, and is used.", file=sys.stderr, flush=True)
        warn_of_differences(options)
    if asked.reload:
        return stay_and_reload(plan, info, lambda: plan_from(asked, is_silent=True), owns_instance=started)
    return stay(plan, info, owns_instance=started, blocking=asked.blocking)


def plan_from(asked: RunOptions, *, is_silent: bool = False) -> Plan:
    """Return what is to be deployed, and say what it was taken for."""
    target = asked.config_or_import_path
    env = read_runtime_env(asked.runtime_env, asked.runtime_env_json, asked.working_dir)
    if is_config_file(target):
        if not is_silent:
            print(f"Running config file: '{target}'.", flush=True)
            if asked.arguments or env:
                print("Arguments and runtime environments are ignored with a config file.", file=sys.stderr)
        return plan_config_file(target)
    if not is_silent:
        print(f"Running import path: '{target}'.", flush=True)
    return plan_import_path(
        target,
        parse_arguments(asked.arguments),
        name=asked.name,
        route_prefix=asked.route_prefix,
        app_dir=asked.app_dir,
        runtime_env=env,
    )


def start_or_join(options: InstanceOptions, *, owner_pid: int | None) -> tuple[InstanceInfo, bool]:
    """Return where the instance of `options.home` is, and whether this call started it.

    Starting is tried first: it is the common case, and the one where time counts.
    """
    try:
        with explain_port_in_use(options):
            return start_instance(options, owner_pid=owner_pid), True
    except AlreadyUpError:
        from serve_lite.engines.local import find_instance  # brings an event loop, and here there is time

        info = find_instance(options.home)
        if info is None:
            raise InstanceError(f"The instance in {options.home} is just ending; try again.") from None
        return info, False


def stay(plan: Plan, info: InstanceInfo, *, owns_instance: bool, blocking: bool) -> int:
    """Deploy, and stay if blocking; return the exit code."""
    import anyio  # while these load, the instance that was just launched is already getting up

    from serve_lite_cli.foreground import Foreground

    async def main() -> int:
        return await Foreground(plan, info, owns_instance=owns_instance, blocking=blocking).run()

    return anyio.run(main)


def stay_and_reload(
    plan: Plan, info: InstanceInfo, read_plan: Callable[[], Plan], *, owns_instance: bool
) -> int:
    """Deploy, and again whenever files change; return the exit code."""
    import anyio

    from serve_lite_cli.reload import ReloadingForeground  # brings what watches files

    async def main() -> int:
        return await ReloadingForeground(plan, info, read_plan, owns_instance=owns_instance).run()

    return anyio.run(main)
