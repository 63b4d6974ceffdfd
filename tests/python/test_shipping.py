"""How user code reaches another process: by reference or by value, what arrives of it, and what cannot travel."""

from __future__ import annotations

import contextvars
import functools
import importlib.util
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import pytest

from serve_lite.shipping import dump_code, dump_init, dump_value, load_code, load_init, travels_by_reference
from serve_lite.unpicklable import find_culprit

DEADLINE_S = 60.0


class Here:
    class Inside:
        pass


def is_by_reference(target: Any) -> bool:
    return bool(msgspec.msgpack.decode(dump_code(target))[0] == "ref")


def python(*arguments: str, cwd: Path, stdin: str = "", **environment: str) -> str:
    """Run another interpreter and return what it prints; fail with what it says if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=textwrap.dedent(stdin),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- by reference or by value -----------------------------------------------------------------------


def test_what_a_module_holds_travels_by_reference_and_what_a_function_made_by_value() -> None:
    class Local:
        pass

    assert is_by_reference(Here) and is_by_reference(Here.Inside) and is_by_reference(is_by_reference)
    assert not is_by_reference(Local)
    assert not is_by_reference(lambda: None)
    assert not is_by_reference(functools.partial(int, "3"))
    assert load_code(dump_code(Here.Inside)) is Here.Inside


@pytest.mark.parametrize(
    "name", ["builtins", "os", "collections.abc", "numpy", "numpy.random", "uvloop.loop"]
)
def test_modules_of_every_kind_are_importable(name: str) -> None:
    importlib.import_module(name)
    assert travels_by_reference(name)


def test_modules_registered_for_it_travel_by_value_and_their_neighbours_do_not() -> None:
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert not is_by_reference(Here)
        assert travels_by_reference("tests.instances" if "tests.instances" in sys.modules else "tests")
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert is_by_reference(Here)


@pytest.fixture
def loaded_from_a_file(tmp_path: Path) -> Iterator[types.ModuleType]:
    """A module whose name leads to it in this process only, as plug-in loaders make them."""
    path = tmp_path / "somewhere" / "plugin.py"
    path.parent.mkdir()
    path.write_text(
        "def helper(): return 'helped'\n"
        "class Base: pass\n"
        "class Model(Base):\n    def answer(self): return helper()\n"
    )
    spec = importlib.util.spec_from_file_location("plugin_of_a_test", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["plugin_of_a_test"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["plugin_of_a_test"]


IN_ANOTHER_PROCESS = """
import pickle, sys
from serve_lite.shipping import load_code
code = bytes.fromhex(sys.stdin.readline())
print(load_code(code)().answer())
"""


def test_a_module_that_cannot_be_imported_elsewhere_travels_whole(
    loaded_from_a_file: types.ModuleType, tmp_path: Path
) -> None:
    assert not is_by_reference(loaded_from_a_file.Model)
    code = dump_code(loaded_from_a_file.Model)
    assert python("-c", IN_ANOTHER_PROCESS, cwd=tmp_path, stdin=code.hex()) == "helped\n"
    assert "plugin_of_a_test" not in python("-c", "import sys; print(list(sys.modules))", cwd=tmp_path)


def test_a_module_that_another_one_of_its_name_hides_travels_by_value(
    loaded_from_a_file: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_of_a_test.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_by_reference(loaded_from_a_file.Model)


def test_a_reference_that_leads_nowhere_says_what_was_looked_for(tmp_path: Path) -> None:
    def reference(module: str, name: str) -> bytes:
        return msgspec.msgpack.encode(["ref", module, name])

    with pytest.raises(ModuleNotFoundError, match="cannot import 'no_such_place', the module of 'Model'"):
        load_code(reference("no_such_place", "Model"))
    with pytest.raises(AttributeError, match=r"no 'Gone' in module .*test_shipping\.py"):
        load_code(reference(__name__, "Gone"))


def test_what_the_module_itself_lacks_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="^No module named 'a_package_that_is_not_there'$"):
        load_code(msgspec.msgpack.encode(["ref", "needs_more", "Model"]))


# --- what travels by value ----------------------------------------------------------------------------

#: A script whose every definition is in `__main__`; it writes its class as hex.
MAIN = """
from __future__ import annotations
import dataclasses, enum, logging, sys, threading, typing
from typing import Annotated, Generic, TypeVar
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel, field_validator
import serve_lite as serve
from serve_lite.shipping import dump_code

T = TypeVar("T")
log = logging.getLogger("shop")
lock = threading.RLock()
ready = threading.Condition()
local = threading.local()
double = lambda x: 2 * x
handle = serve.handle.DeploymentHandle("Other", "app")

class Colour(enum.Enum):
    RED = "red"

class Mode(enum.IntFlag):
    A = 1
    B = 2

@dataclasses.dataclass
class Point:
    x: int = 1
    colour: Colour = Colour.RED

class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content

class Item(BaseModel):
    name: str
    colour: Colour = Colour.RED

    @field_validator("name")
    @classmethod
    def longer(cls, value: str) -> str:
        return value + "!"

class Thing(typing.NamedTuple):
    n: int

class Middleware:
    def __init__(self, app, word): self.app, self.word = app, word
    async def __call__(self, scope, receive, send): await self.app(scope, receive, send)

def token(request: Request) -> str:
    return request.headers["token"]

api = FastAPI()
api.add_middleware(Middleware, word="w")
api.state.pool = lock

@serve.deployment
class Later:
    pass

@serve.deployment
@serve.ingress(api)
class Shop:
    @api.post("/items")
    def add(self, item: Item, token: Annotated[str, Depends(token)]) -> Item:
        with lock, ready:
            log.info("adding")
        return Item(name=item.name + token)

    def answer(self):
        later = Later.options(num_replicas=2)
        hold = lambda: handle.deployment_name
        assert Colour("red") is Colour.RED and (Mode.A | Mode.B).value == 3
        assert [f.name for f in dataclasses.fields(Point)] == ["x", "colour"] and Point() == Point()
        assert Box[int](1).content == 1 and Thing(2).n == 2 and double(2) == 4
        return [Item(name="n").name, repr(Point()), hold(), later.num_replicas]

print(dump_code(Shop.func_or_class).hex())
"""

ARRIVED = """
import sys
from serve_lite.shipping import load_code
shop = load_code(bytes.fromhex(sys.stdin.readline()))()
print(shop.answer())
from starlette.testclient import TestClient
client = TestClient(shop._serve_asgi_app)
print(client.post("/items", json={"name": "a"}, headers={"token": "t"}).json())
print([p["name"] for p in client.get("/openapi.json").json()["paths"]["/items"]["post"].get("parameters", [])])
"""


def test_a_script_with_models_enums_locks_and_an_api_arrives_whole(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(MAIN)
    code = python("script.py", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert python("-W", "ignore", "-c", ARRIVED, cwd=elsewhere, stdin=code).splitlines() == [
        "['n!', \"Point(x=1, colour=<Colour.RED: 'red'>)\", 'Other', 2]",
        "{'name': 'a!t!', 'colour': 'red'}",
        "[]",
    ]


def test_locks_arrive_new_and_unlocked() -> None:
    lock = threading.Lock()
    with lock:
        arrived = pickle.loads(dump_value({"lock": lock, "again": lock}, what="a lock"))
    assert arrived["lock"] is arrived["again"]
    assert arrived["lock"].acquire(blocking=False)


def test_what_libraries_register_with_copyreg_later_is_seen() -> None:
    import copyreg

    class Special:
        def __reduce__(self) -> Any:
            raise TypeError("only the registered way works")

    copyreg.pickle(Special, lambda special: (str, ("registered",)))
    try:
        assert pickle.loads(dump_value(Special(), what="it")) == "registered"
    finally:
        del copyreg.dispatch_table[Special]


def test_arguments_come_back_as_they_were() -> None:
    args, kwargs = load_init(dump_init((1, [Here]), {"key": {"a": Here.Inside}}))
    assert (args, kwargs) == ((1, [Here]), {"key": {"a": Here.Inside}})


# --- what cannot travel ---------------------------------------------------------------------------------

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")


def refusal(value: Any, what: str = "deployment 'Shop'") -> str:
    with pytest.raises(TypeError) as refused:
        dump_value(value, what=what)
    return str(refused.value)


def made_here() -> Any:
    """A class by value that reaches a socket through a global, a closure and an attribute."""
    with socket.socket() as client:
        holder = types.SimpleNamespace(fine=1, connections=[{"main": client}])

        class Base:
            def connect(self) -> Any:
                return holder

        class Shop(Base):
            def itself(self) -> Any:
                return Shop  # a cycle, which must not hide the culprit

            def answer(self) -> int:
                return 1

        return Shop


def test_the_way_to_what_cannot_travel_is_named() -> None:
    said = refusal(made_here())
    assert said.startswith("Cannot send deployment 'Shop' to a replica: ")
    assert (
        "It holds an object of type socket.socket (base class 'Base', method 'connect', enclosed variable 'holder', "
        "attribute 'connections', item 1, entry 'main')." in said
    )
    assert "inside the constructor" in said


def test_globals_defaults_partials_and_slots_are_looked_into() -> None:
    pool = ThreadPoolExecutor(1)

    def by_default(used: Any = pool) -> None: ...

    class Slotted:
        __slots__ = ("pool",)

        def __init__(self) -> None:
            self.pool = pool

    def of_a_module() -> str:
        return request_id.get()

    assert "ThreadPoolExecutor" not in refusal(by_default).partition("(")[0]  # the innermost thing, its queue
    assert "(default of a parameter, attribute '_work_queue')" in refusal(by_default)
    assert "(function of a partial, default of a parameter" in refusal(functools.partial(by_default))
    assert "(attribute 'pool', attribute '_work_queue')" in refusal(Slotted())
    assert "_contextvars.ContextVar (global variable 'request_id')" in refusal(of_a_module)


def test_an_argument_is_named_by_its_place_or_name() -> None:
    with pytest.raises(TypeError, match=r"Cannot send argument 2 of deployment 'D' .*generator \(item 1\)"):
        dump_init((1, [(y for y in ())]), {}, owner="deployment 'D'")
    with pytest.raises(TypeError, match=r"Cannot send argument 'rows' of deployment 'D' .*type generator\."):
        dump_init((), {"rows": (y for y in ())}, owner="deployment 'D'")


def test_what_is_nested_too_deeply_is_said_to_be() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert refusal(deep, "arguments") == "Cannot send arguments to a replica: it is nested too deeply."
    while deep:  # taking it apart from inside would need as many frames
        deep = deep[0]


def test_a_value_without_a_part_to_blame_is_the_culprit_itself() -> None:
    class Refuses:
        def __init__(self) -> None:
            self.fine = 1

        def __reduce__(self) -> Any:
            raise ValueError("I stay here")

    culprit = find_culprit([Refuses()], lambda value: not isinstance(value, list | Refuses))
    assert culprit.way == ("item 1",) and isinstance(culprit.value, Refuses)
    assert "I stay here. It holds an object of type" in refusal([Refuses()])


# --- real instances, started by scripts of their own -----------------------------------------------------

START = 'import serve_lite as serve\nserve.start(http_options={"port": 0})\n'


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a script that starts an instance of its own, which ends with it."""
    return {"SERVE_LITE_HOME": str(tmp_path / "home"), "SERVE_LITE_ADMIN_PORT": "0"}


@pytest.mark.processes
def test_a_notebook_deploys_what_its_cells_define_and_again_what_they_define_anew(
    tmp_path: Path, home: dict[str, str]
) -> None:
    """Cells run in a `__main__` without a file, on a loop that is running already."""
    notebook = """
    import ast, asyncio
    CELLS = ['''
    import serve_lite as serve, httpx, threading
    from fastapi import FastAPI
    from pydantic import BaseModel
    serve.start(http_options={"port": 0})
    lock = threading.Lock()
    api = FastAPI()
    class Item(BaseModel):
        name: str = "none"
    ''', '''
    def greet(name): return "hello " + name
    @serve.deployment
    @serve.ingress(api)
    class Shop:
        @api.post("/greet")
        def greet_over_http(self, item: Item) -> Item:
            with lock: return Item(name=greet(item.name))
        def call(self, item): return greet(item.name)
    ''', '''
    handle = serve.run(Shop.bind())
    print(await handle.call.remote(Item(name="ann")))
    ''', '''
    def greet(name): return "good day " + name  # only what the class uses is defined again
    handle = serve.run(Shop.bind())
    print(await handle.call.remote(Item(name="ann")))
    ''', '''
    @serve.deployment
    @serve.ingress(api)
    class Shop:
        @api.post("/greet")
        def greet_over_http(self, item: Item) -> Item: return Item(name="bye " + item.name)
        def call(self, item): return "bye " + item.name
    handle = serve.run(Shop.bind())
    print(await handle.call.remote(Item(name="ann")))
    ''']

    async def run_cells():
        import __main__, textwrap
        for n, cell in enumerate(CELLS):
            source = textwrap.dedent(cell)
            code = compile(source, f"<cell {n}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, vars(__main__))
            if asyncio.iscoroutine(running):
                await running

    asyncio.run(run_cells())
    """
    said = python("-W", "ignore", "-", cwd=tmp_path, stdin=notebook, **home)
    assert said.splitlines() == ["hello ann", "good day ann", "bye ann"]


@pytest.mark.processes
def test_a_script_uses_modules_beside_it_wherever_it_is_started(tmp_path: Path, home: dict[str, str]) -> None:
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "helpers.py").write_text("def greet(): return 'from a neighbour'\n")
    (folder / "models.py").write_text(
        "import serve_lite as serve\nimport helpers\n"
        "@serve.deployment\nclass Model:\n    def call(self): return helpers.greet()\n"
    )
    (folder / "script.py").write_text(
        START + "import helpers\nfrom models import Model\n"
        "@serve.deployment\nclass Mine:\n"
        "    def __init__(self, model): self.model = model\n"
        "    async def call(self): return [helpers.greet(), await self.model.call.remote()]\n"
        "print(serve.run(Mine.bind(Model.bind())).call.remote().result())\n"
    )
    said = python(str(folder / "script.py"), cwd=elsewhere, **home)
    assert said == "['from a neighbour', 'from a neighbour']\n"


@pytest.mark.processes
def test_a_package_is_run_with_m_and_imports_relatively(tmp_path: Path, home: dict[str, str]) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text("def word(): return 'relative'\n")
    (package / "main.py").write_text(
        START + "from .words import word\nfrom . import words\n"
        "@serve.deployment\nclass Mine:\n    def call(self): return word() + ' ' + words.word()\n"
        "if __name__ == '__main__':\n    print(serve.run(Mine.bind()).call.remote().result())\n"
    )
    assert python("-m", "pkg.main", cwd=tmp_path, **home) == "relative relative\n"


@pytest.mark.processes
def test_a_changed_module_takes_effect_with_the_next_run(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / "script.py").write_text(
        START
        + textwrap.dedent("""
        import importlib, pathlib
        CODE = "import serve_lite as serve\\n@serve.deployment\\nclass Model:\\n    def call(self): return {!r}\\n"
        path = pathlib.Path("model.py")
        path.write_text(CODE.format("first"))
        import model
        print(serve.run(model.Model.bind()).call.remote().result())
        path.write_text(CODE.format("the second"))
        importlib.reload(model)
        print(serve.run(model.Model.bind()).call.remote().result())
        """)
    )
    assert python("script.py", cwd=tmp_path, **home).splitlines() == ["first", "the second"]


@pytest.mark.processes
def test_exceptions_and_results_of_script_classes_keep_their_class(
    tmp_path: Path, home: dict[str, str]
) -> None:
    (tmp_path / "script.py").write_text(
        START
        + textwrap.dedent("""
        import dataclasses, enum
        class Sold(Exception):
            pass
        class Colour(enum.Enum):
            RED = 1
        @dataclasses.dataclass
        class Point:
            x: int
            colour: Colour
        @serve.deployment
        class Mine:
            def point(self, point): return Point(point.x + 1, Colour.RED)
            def fail(self): raise Sold("out")
        handle = serve.run(Mine.bind())
        point = handle.point.remote(Point(1, Colour.RED)).result()
        print(point == Point(2, Colour.RED), point.colour is Colour.RED)
        try:
            handle.fail.remote().result()
        except Sold as error:
            print("sold", error)
        """)
    )
    assert python("script.py", cwd=tmp_path, **home).splitlines() == ["True True", "sold out"]


@pytest.mark.processes
def test_a_script_hears_at_once_what_cannot_travel(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / "script.py").write_text(
        "import socket\nimport serve_lite as serve\nclient = socket.socket()\n"
        "try:\n    @serve.deployment(name='Mine')\n    class Anything:\n"
        "        def call(self): return client\n"
        "except TypeError as error:\n    print(error)\n"
    )
    said = python("script.py", cwd=tmp_path, **home)
    assert said.startswith("Cannot send deployment 'Mine' to a replica: ")
    assert "socket.socket (method 'call', global variable 'client')" in said
