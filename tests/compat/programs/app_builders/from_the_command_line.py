"""`serve run module:builder key=value` calls a builder with what stands behind it, and runs what it returns."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"

MODULE = """
from pydantic import BaseModel

import serve_lite as serve


class Arguments(BaseModel):
    base: int
    places: int = 2


@serve.deployment
class Digits:
    def __init__(self, base, places):
        self.base, self.places = base, places

    def __call__(self, request):
        number, digits = int(request.query_params["number"]), []
        for _ in range(self.places):
            number, digit = divmod(number, self.base)
            digits.append(str(digit))
        return "".join(reversed(digits))


def build(args: Arguments):
    return Digits.bind(args.base, args.places)
"""

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "digits.py").write_text(MODULE)
    command = [Path(sys.executable).with_name("serve"), "run", "digits:build", "base=2", "places=8"]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in server.stdout:  # until it is ready
            if "is ready at" in line:
                break
        assert httpx.get(URL, params={"number": 37}).text == "00100101"
    finally:
        server.terminate()  # as Ctrl-C would
        server.communicate()
