"""Versions by content: which deployments of an application are replaced when one of its files changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = """
import json, sys
from serve_lite.replica.importing import build
from serve_lite.state.goal import BuildRequest
sys.path.insert(0, sys.argv[1])
given = json.loads(sys.argv[3])
result = build(BuildRequest(app_name="app", import_path=sys.argv[2], args=given, by_content=True))
print(json.dumps({spec.name: spec.version for spec in result.deployments}))
"""

FILES = {
    "main.py": "from front import Front\nfrom pkg.back import Back\napp = Front.bind(Back.bind(), 1)\n",
    "front.py": (
        "import serve_lite as serve\nimport shared\n@serve.deployment\nclass Front:\n"
        "  def __init__(self, *a): ...\n"
    ),
    "pkg/__init__.py": "",
    "pkg/back.py": (
        "import serve_lite as serve\n@serve.deployment\nclass Back:\n"
        "  def __init__(self, *a): ...\n  def __call__(self):\n    from pkg import late\n"
    ),
    "pkg/late.py": "import shared\n",
    "pkg/unused.py": "",
    "shared.py": "",
    "config.py": "class Config:\n  pass\n",
    "plugin.py": "",
}


class Code:
    """A folder of modules, built in a fresh process each time, each with another order of sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.builds = 0
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def append(self, name: str, text: str = "x = 1\n") -> None:
        self.write(name, (self.folder / name).read_text() + text)

    def versions(self, import_path: str = "main:app", **args: str) -> dict[str, str]:
        self.builds += 1
        environment = {**os.environ, "PYTHONHASHSEED": str(self.builds), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", BUILD, str(self.folder), import_path, json.dumps(args)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


CHANGES = {
    "front.py": {"Front"},
    "pkg/back.py": {"Back"},
    "pkg/late.py": {"Back"},
    "pkg/__init__.py": {"Back"},
    "shared.py": {"Front", "Back"},
    "main.py": set(),
    "pkg/unused.py": set(),
}


@pytest.mark.parametrize("file", CHANGES)
def test_the_deployments_that_need_a_file_change_with_it(code: Code, file: str) -> None:
    before = code.versions()
    assert all(before.values())
    code.append(file)
    assert changed(before, code.versions()) == CHANGES[file]


def test_another_argument_changes_the_deployment_that_gets_it(code: Code) -> None:
    before = code.versions()
    code.write("main.py", FILES["main.py"].replace("1)", "2)"))
    assert changed(before, code.versions()) == {"Front"}


def test_the_class_of_an_argument_counts_with_its_file(code: Code) -> None:
    code.append("main.py", "from config import Config\nbound = Front.bind(Back.bind(Config()))\n")
    before = code.versions("main:bound")
    code.append("config.py")
    assert changed(before, code.versions("main:bound")) == {"Back"}


def test_sets_and_classes_made_in_functions_do_not_change_by_themselves(code: Code) -> None:
    code.append(
        "main.py",
        "def make():\n  class Local:\n    words = {'a', 'b', 'c', 'd', 'e'}\n  return Local\n"
        "bound = Front.bind(Back.bind(make()), {'u', 'v', 'w', 'x', 'y'})\n",
    )
    before = code.versions("main:bound")
    assert changed(before, code.versions("main:bound")) == set()
    code.write("main.py", (code.folder / "main.py").read_text().replace("'e'", "'f'"))
    assert "Back" in changed(before, code.versions("main:bound"))


def test_a_deployment_that_travels_by_value_changes_with_the_file_it_is_made_in(code: Code) -> None:
    code.append(
        "main.py",
        "import serve_lite as serve\ndef build(args):\n  @serve.deployment\n  class Inner:\n"
        "    def __init__(self, back): ...\n    def __call__(self): return args['size']\n"
        "  return Inner.bind(Back.bind())\n",
    )
    before = code.versions("main:build", size="1")
    assert changed(before, code.versions("main:build", size="1")) == set()
    assert changed(before, code.versions("main:build", size="2")) == {"Inner"}
    code.append("main.py")
    assert changed(before, code.versions("main:build", size="1")) == {"Inner"}


def test_what_is_loaded_in_a_way_that_cannot_be_read_counts_for_every_deployment(code: Code) -> None:
    code.append("main.py", "import importlib\nimportlib.import_module('plug' + 'in')\n")
    before = code.versions()
    code.append("plugin.py")
    assert changed(before, code.versions()) == {"Front", "Back"}


def test_a_router_of_ones_own_counts_with_its_file(code: Code) -> None:
    code.write(
        "routers.py",
        "from serve_lite.request_router import RoundRobinRouter\nclass Mine(RoundRobinRouter):\n  pass\n",
    )
    config = "request_router_config={'request_router_class': 'routers:Mine'}"
    code.write("pkg/back.py", FILES["pkg/back.py"].replace("deployment\n", f"deployment({config})\n", 1))
    before = code.versions()
    code.append("routers.py")
    assert changed(before, code.versions()) == {"Back"}
