"""A config file that changes only `user_config` reconfigures the replicas that run; nothing is started again."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"

MODULE = """
import os

import serve_lite as serve


@serve.deployment
class Fares:
    def reconfigure(self, config):
        self.fare = config["fare"]

    def __call__(self):
        return {"fare": self.fare, "process": os.getpid()}


app = Fares.bind()
"""

CONFIG = """
applications:
  - name: fares
    import_path: fares:app
    deployments:
      - name: Fares
        user_config: {{fare: {fare}}}
"""


def deploy(folder: str, fare: float) -> dict:
    Path(folder, "config.yaml").write_text(CONFIG.format(fare=fare))
    command = [Path(sys.executable).with_name("serve"), "run", "--non-blocking", "config.yaml"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return httpx.get(URL).json()


serve.start()
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "fares.py").write_text(MODULE)
    before = deploy(folder, 2.4)
    after = deploy(folder, 2.6)
    assert (before["fare"], after["fare"]) == (2.4, 2.6)
    assert before["process"] == after["process"]
    serve.shutdown()
