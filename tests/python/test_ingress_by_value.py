"""A FastAPI class made inside a function travels by value; its routes must still be its methods."""

from __future__ import annotations

import pickle
import subprocess
import sys

from fastapi import FastAPI

import serve_lite as serve
from serve_lite.shipping import dump_code

IN_ANOTHER_PROCESS = """
import pickle, sys
from fastapi.testclient import TestClient
from serve_lite.shipping import load_code
from serve_lite.views import bind_views

cls = load_code(pickle.load(sys.stdin.buffer))
instance = object.__new__(cls)
print(TestClient(bind_views(cls._serve_app_source.app, instance)).get("/").text)
"""


def test_a_class_of_a_builder_function_keeps_its_routes_in_another_process() -> None:
    api = FastAPI()

    @serve.deployment
    @serve.ingress(api)
    class Local:
        @api.get("/")
        async def answer(self) -> str:
            return type(self).__name__

    code = pickle.dumps(dump_code(Local.func_or_class))
    done = subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], input=code, capture_output=True)
    assert done.stdout.decode().strip() == '"Local"', done.stderr.decode()
