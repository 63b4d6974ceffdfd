"""`serve build`: a config file from the applications in code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from serve_lite import __version__
from serve_lite.checks import import_path as check_servicer
from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite.processes import python_command
from serve_lite.state.goal import DeploymentSpec
from serve_lite.wire.spawning import BuildReply
from serve_lite_cli.flags import JsonOption
from serve_lite_cli.manifest import Built, multi_app_document, ray_service, single_app_document
from serve_lite_cli.plan import check_import_path
from serve_lite_cli.yaml_text import to_yaml


class BuildFailed(RayServeException):
    """An application could not be built; the message is for its author."""


def command(
    import_paths: Annotated[
        list[str], typer.Argument(metavar="IMPORT_PATHS...", help="Import paths like `my_script:app`.")
    ],
    app_dir: Annotated[
        str, typer.Option("--app-dir", "-d", help="Directory to look for the import paths in.")
    ] = ".",
    kubernetes_format: Annotated[
        bool,
        typer.Option(
            "--kubernetes_format",
            "-k",
            help="Print a RayService manifest for Kubernetes. Must be used with --single-app.",
        ),
    ] = False,
    output_path: Annotated[
        str, typer.Option("--output-path", "-o", help="File to write to. [default: standard output]")
    ] = "",
    multi_app: Annotated[
        bool, typer.Option("--multi-app", help="Generate a multi-application config. This is the default.")
    ] = False,
    single_app: Annotated[
        bool, typer.Option("--single-app", help="Generate a single-application config from one target.")
    ] = False,
    grpc_servicer_functions: Annotated[
        list[str] | None,
        typer.Option(
            "--grpc-servicer-functions", help="Import path of a gRPC servicer function. Repeatable."
        ),
    ] = None,
    grpc_enable_reflection: Annotated[
        bool, typer.Option("--grpc-enable-reflection/--grpc-disable-reflection", help="gRPC reflection.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Generate a config file with every deployment of the applications and all its options.

    The file deploys as it is with `serve deploy`. The applications are imported in a process of their own, which
    ends with this command.

    With --json: the same document as JSON, which `serve deploy` takes too.
    """
    check_flags(len(import_paths), multi_app, single_app, kubernetes_format)
    if multi_app:
        say("Warning: --multi-app is the default, and can be left out.")
    servicers = [check_servicer(path, "--grpc-servicer-functions") for path in grpc_servicer_functions or ()]
    folder = os.path.abspath(os.path.expanduser(app_dir))
    if not os.path.isdir(folder):
        raise InvalidConfigError(f"--app-dir is {app_dir!r}, which is not a directory.")
    for path in import_paths:
        check_import_path(path)
    built = [
        Built(path, build(path, folder), working_dir(folder, output_path, is_remote=kubernetes_format))
        for path in import_paths
    ]
    if kubernetes_format:
        document = ray_service(built[0], servicers, reflection=grpc_enable_reflection)
    elif single_app:
        document = single_app_document(built[0])
    else:
        document = multi_app_document(built, servicers, reflection=grpc_enable_reflection)
        say("The applications are called app1, app2 and so on; rename them as you like.")
    for name in bytes_in(built):
        say(
            f"The user_config of deployment {name!r} is bytes, which a file cannot hold; it stays in the code."
        )
    text = json.dumps(document, indent=2) + "\n" if as_json else as_yaml(document)
    if output_path:
        write(output_path, text)
    else:
        print(text, end="")


def as_yaml(document: dict[str, Any]) -> str:
    """Return the text of a file, with a blank line between its parts."""
    head = f"# This file was generated using the `serve build` command of serve-lite v{__version__}.\n\n"
    return head + "\n".join(to_yaml({key: part}) for key, part in document.items())


def check_flags(targets: int, multi_app: bool, single_app: bool, kubernetes_format: bool) -> None:
    """Refuse flags that contradict each other.

    Raises:
        InvalidConfigError: they do.
    """
    if multi_app and single_app:
        raise InvalidConfigError("You cannot specify both --multi-app and --single-app.")
    if kubernetes_format and not single_app:
        raise InvalidConfigError(
            "Multi-application config does not support Kubernetes format: give --single-app with -k."
        )
    if single_app and targets > 1:
        raise InvalidConfigError(
            f"--single-app takes one import path, and {targets} are given. Leave it out to put them all into one file."
        )


def build(import_path: str, folder: str) -> tuple[DeploymentSpec, ...]:
    """Return the deployments of the application at `import_path`, imported in a child.

    Raises:
        BuildFailed: there is no such application, or its code raised.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as answer:
        try:
            child = subprocess.Popen(
                python_command("serve_lite.replica.building", str(writer), folder, import_path),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[writer],
            )
        finally:
            os.close(writer)
        with child:  # its end is awaited, also after Ctrl-C, which it gets as well
            body = answer.read()
    if not body:
        raise BuildFailed(
            f"The process that imported {import_path!r} ended with status {child.returncode} and gave no answer."
        )
    reply = msgspec.msgpack.decode(body, type=BuildReply)
    if reply.failure is not None:
        failure = reply.failure
        kind = f"{failure.type_name}: " if failure.type_name else ""
        where = f" (at {failure.where})" if failure.where else ""
        raise BuildFailed(f"Cannot build {import_path!r}: {kind}{failure.text}{where}")
    assert reply.result is not None  # a reply is one or the other
    return reply.result.deployments


def working_dir(folder: str, output_path: str, *, is_remote: bool) -> str | None:
    """Return the `working_dir` that the file has to name so that it finds the code; None if it lies beside it."""
    beside = os.path.dirname(os.path.abspath(output_path)) if output_path else os.getcwd()
    if is_remote or os.path.realpath(folder) == os.path.realpath(beside):
        return None
    return os.path.relpath(folder, beside) if output_path else folder


def bytes_in(built: list[Built]) -> list[str]:
    """Return the deployments whose `user_config` no file can hold."""
    return [
        spec.name for app in built for spec in app.deployments if isinstance(spec.config.user_config, bytes)
    ]


def write(path: str, text: str) -> None:
    """Write the file.

    Raises:
        InvalidConfigError: it cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidConfigError(f"Cannot write {path!r}: {error.strerror}.") from error
    say(f"Wrote {path}.")


def say(text: str) -> None:
    """Tell something beside the document."""
    print(text, file=sys.stderr, flush=True)
