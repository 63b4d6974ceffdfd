"""pytest's fixtures `serve_app` and `serve_client` deploy an application for one test and take it away again."""

import subprocess
import sys
import tempfile
from pathlib import Path

TEST = """
import pytest

import serve_lite as serve


@serve.deployment
class Roman:
    def __call__(self, request):
        return self.write(int(request.query_params["number"]))

    def write(self, number):
        text = ""
        for value, letters in ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):
            text += letters * (number // value)
            number %= value
        return text


@pytest.mark.parametrize("local", [False, True])
def test_a_number_over_http(serve_app, serve_client, local):
    serve_app(Roman.bind(), local=local)
    assert serve_client.get("/", params={"number": 14}).text == "XIV"


def test_a_number_by_handle(serve_app):
    handle = serve_app(Roman.bind(), local=True)
    assert handle.write.remote(9).result() == "IX"
"""

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "test_roman.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_roman.py"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
assert run.returncode == 0 and "3 passed" in run.stdout, run.stdout + run.stderr
