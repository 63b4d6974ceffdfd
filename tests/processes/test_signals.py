"""SIGHUP: logs are opened and certificates read anew. Logs stay bounded."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from serve_lite.daemon.log_files import prune
from tests.cli.commands import Cli
from tests.instances import Instance, Instances, until

HERE = Path(__file__).parent


async def test_logs_that_were_moved_are_opened_anew(daemon: Instance) -> None:
    logs = Path(daemon.paths.logs)
    for name in ("daemon.log", "keeper.log"):
        (logs / name).touch()
        os.rename(logs / name, logs / f"{name}.old")
    await daemon.deploy("served:who", folder=HERE)
    assert not (logs / "daemon.log").exists()
    os.kill(daemon.keeper_pid, signal.SIGHUP)
    await until((logs / "daemon.log").exists, "the daemon opens its log anew")
    await until((logs / "keeper.log").exists, "the keeper opens its log anew")
    await daemon.delete("default")
    await until(lambda: "default: deleted" in daemon.log("daemon.log"))
    assert "default: deleted" not in daemon.log("daemon.log.old")


async def test_after_an_upgrade_the_logs_still_can_be_moved(daemon: Instance) -> None:
    assert (await Cli(daemon.home, HERE)("upgrade", "--grace-period", "0")).code == 0
    logs = Path(daemon.paths.logs)
    for name in ("daemon.log", "keeper.log"):
        os.rename(logs / name, logs / f"{name}.old")
    os.kill(daemon.keeper_pid, signal.SIGHUP)
    await until((logs / "daemon.log").exists, "the daemon opens its log anew")
    await until((logs / "keeper.log").exists, "the keeper opens its log anew")


# --- certificates ---------------------------------------------------------------------------------


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for this machine, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = folder / f"{name}-cert.pem", folder / f"{name}-key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


async def test_certificates_are_read_anew_and_bad_ones_are_not_taken(
    instances: Instances, tmp_path: Path
) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(first[0], cert)
    shutil.copy(first[1], key)
    instance = await instances.start(instances.options(ssl_certfile=str(cert), ssl_keyfile=str(key)))

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", instance.info.http_port))

    assert served().split() == first[0].read_text().split()
    shutil.copy(second[0], cert)  # and not its key
    os.kill(instance.keeper_pid, signal.SIGHUP)
    await until(lambda: "HTTP keeps its certificates" in instance.log("daemon.log"))
    assert served().split() == first[0].read_text().split()
    shutil.copy(second[1], key)
    os.kill(instance.keeper_pid, signal.SIGHUP)
    await until(lambda: "have the certificates read just now" in instance.log("daemon.log"))
    assert served().split() == second[0].read_text().split()


async def test_an_upgrade_is_refused_while_the_certificates_are_bad(
    instances: Instances, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path, "good")
    instance = await instances.start(instances.options(ssl_certfile=str(cert), ssl_keyfile=str(key)))
    key.write_text("nonsense")
    done = await Cli(instance.home, HERE)("upgrade")
    assert done.code == 1
    assert "the running daemon goes on" in done.err and "TLS cannot be served" in done.err


# --- bounds ---------------------------------------------------------------------------------------

WRITER = """
import os, sys
from serve_lite.daemon.log_files import bound, reopen
reopen(sys.argv[1])
for number in range(int(sys.argv[2])):
    os.write(2, b"%06d\\n" % number)
    bound(sys.argv[1], most_bytes=700)
"""


def test_a_full_log_becomes_an_older_one_and_the_oldest_goes(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    subprocess.run([sys.executable, "-c", WRITER, log, "1050"], check=True)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["daemon.log", "daemon.log.1", "daemon.log.2", "daemon.log.3"]
    said = "".join((tmp_path / name).read_text() for name in (*reversed(files[1:]), "daemon.log"))
    assert said.split() == [f"{n:06}" for n in range(700, 1050)]


def test_two_that_write_into_one_log_do_not_shift_each_other_s(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    script = (
        "import os, sys\n"
        "from serve_lite.daemon.log_files import bound, reopen\n"
        "reopen(sys.argv[1])\n"
        "os.write(2, b'x' * 1000)\n"
        "os.rename(sys.argv[1], sys.argv[1] + '.1')\n"  # the other one's doing
        "open(sys.argv[1], 'w').write('its new log\\n')\n"
        "bound(sys.argv[1], most_bytes=700)\n"
        "os.write(2, b'ours\\n')\n"
    )
    subprocess.run([sys.executable, "-c", script, log], check=True)
    assert log.read_text() == "its new log\nours\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon.log", "daemon.log.1"]


def test_logs_of_replicas_that_are_gone_are_bounded_and_others_are_left(tmp_path: Path) -> None:
    for number in range(6):
        for name in (f"replica_a_{number}.log", f"replica_a_{number}.log.1"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (number, number))
    (tmp_path / "daemon.log").touch()
    gone = prune(str(tmp_path), {str(tmp_path / "replica_a_0.log")}, keep=4)
    assert len(gone) == 6
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        "daemon.log",
        *(f"replica_a_{number}.log{suffix}" for number in (0, 4, 5) for suffix in ("", ".1")),
    ]
