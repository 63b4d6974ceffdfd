"""How long the first request waits for a deployment without replicas: `python -m benchmarks.wake [--times N]`.

`apps/sleeper.py` tells how much of the time went to its own import and constructor; what is left is ours: the router
tells that a call waits, autoscaling decides, a process is forked, connected and given the call.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks import processes
from benchmarks.contenders.base import ROOT, Command, Place
from benchmarks.contenders.serve_lite import ServeLite
from benchmarks.run import free_port

CONFIG = """\
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: default
    import_path: benchmarks.apps.sleeper:app
"""
LIMIT_S = 60.0


def wake(client: httpx.Client, admin: httpx.Client) -> tuple[float, float, float]:
    """Return the seconds that a request took which found no replica, and of those import and constructor."""
    _wait_until_asleep(admin)
    began = time.perf_counter()
    answer = client.get("/")
    took = time.perf_counter() - began
    answer.raise_for_status()
    told = answer.json()
    return took, told["import_s"], told["constructor_s"]


def _wait_until_asleep(admin: httpx.Client) -> None:
    """Return once the deployment is there and has no replica any more."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            apps = admin.get("/api/serve/applications/").json()["applications"]
        except httpx.TransportError:
            apps = {}
        deployment = apps.get("default", {}).get("deployments", {}).get("Sleeper")
        if deployment and deployment["status"] == "HEALTHY" and not deployment["replicas"]:
            return
        time.sleep(0.02)
    raise TimeoutError(f"the deployment still had replicas after {LIMIT_S:g} s")


def main() -> None:
    """Wake a deployment several times, and print what each wake cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wake", description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    times: int = parser.parse_args().times
    processes.become_subreaper()
    contender, directory = ServeLite(), Path(tempfile.mkdtemp(prefix="serve-lite-wake-"))
    place, admin_port = Place(free_port(), directory), free_port()
    config = directory / "serve.yaml"
    config.write_text(CONFIG.format(port=place.port))
    argv = [contender.script("serve-lite"), "run", "--admin-port", str(admin_port), "--app-dir", str(ROOT)]
    env = {"BENCHMARK_SERVE": "serve_lite", "SERVE_LITE_HOME": str(directory / "home")}
    started: list[subprocess.Popen[bytes]] = [Command([*argv, str(config)], env).popen(directory / "output")]
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{place.port}", timeout=LIMIT_S) as client,
            httpx.Client(base_url=f"http://127.0.0.1:{admin_port}", timeout=LIMIT_S) as admin,
        ):
            seen = [wake(client, admin) for _ in range(times)]
    finally:
        processes.stop(started, with_signal=contender.stop_signal, grace_s=30.0)
        shutil.rmtree(directory, ignore_errors=True)
    print("| wake ms | import ms | constructor ms | the rest ms |\n|---|---|---|---|")
    for took, imported, built in seen:
        cells = (took, imported, built, took - imported - built)
        print("| " + " | ".join(f"{cell * 1000:.1f}" for cell in cells) + " |")
    print(f"median of the rest: {statistics.median(t - i - b for t, i, b in seen) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
