"""The demo: run an application as a user would, send it real files, show the answer, and keep serving.

    make demo                  until Ctrl-C
    DEMO_ONCE=1 make demo      ends after the answer, with exit code 0
    PORT=8001 make demo        if 8000 is taken

It runs in a state directory of its own, so an instance that is up already is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
FILES = ("Makefile", "pyproject.toml", "examples/file_types.py")
START_LIMIT_S = 60.0


def main() -> int:
    """Run the demo and return its exit code."""
    port = int(os.environ.get("PORT", "8000"))
    if is_taken(port):
        print(f"Port {port} is in use, so the demo was not started. Choose another one: PORT=8001 make demo")
        return 1

    with tempfile.TemporaryDirectory(prefix="serve-lite-demo-") as home:
        serve = str(Path(sys.executable).with_name("serve"))
        command = [serve, "run", "examples.file_types:app", "--port", str(port), "--admin-port", "0"]
        print("$", " ".join(["serve", *command[1:]]), flush=True)
        environment = {**os.environ, "SERVE_LITE_HOME": home}
        # A process group of its own: Ctrl-C reaches the demo alone, which passes it on exactly once.
        server = subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0)
        try:
            return show(server, port, home)
        except KeyboardInterrupt:
            return 0
        finally:
            stop(server)


def show(server: subprocess.Popen[bytes], port: int, home: str) -> int:
    """Send the files, print what comes back, and wait for the end unless `DEMO_ONCE` is set."""
    url = f"http://127.0.0.1:{port}/identify"
    answer = ask(server, url)
    if answer is None:
        print("The demo's application did not get ready; what `serve run` said is above.", file=sys.stderr)
        return 1

    print(f"\n{len(FILES)} files of this project, and what the model says they are:\n")
    print(json.dumps(answer, indent=2))
    uploads = " ".join(f"-F files=@{name}" for name in FILES)
    print(f"\nAsk it yourself:\n\n  curl {uploads} {url}\n", flush=True)
    if os.environ.get("DEMO_ONCE"):
        return 0

    print(f"Its state:   SERVE_LITE_HOME={home} .venv/bin/serve status")
    print("Serving until Ctrl-C.", flush=True)
    return server.wait()


def ask(server: subprocess.Popen[bytes], url: str) -> object:
    """Return the application's answer once it has one; None if the server ends or the time is up."""
    deadline = time.monotonic() + START_LIMIT_S
    while server.poll() is None and time.monotonic() < deadline:
        uploads = [("files", (name, (ROOT / name).read_bytes())) for name in FILES]
        try:
            response = httpx.post(url, files=uploads, timeout=30)
        except httpx.TransportError:
            pass  # nothing listens yet
        else:
            if response.status_code == 200:
                return response.json()
        time.sleep(0.05)
    return None


def stop(server: subprocess.Popen[bytes]) -> None:
    """Let the server drain and end; it removes what it started."""
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=30)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            server.kill()  # the instance ends with its owner
            server.wait()


def is_taken(port: int) -> bool:
    """Return whether somebody answers on the port already."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as cleanly as Ctrl-C
    sys.exit(main())
