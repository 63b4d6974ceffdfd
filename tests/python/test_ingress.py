"""`@serve.ingress`: which apps it takes, and that FastAPI routes reach the live instance."""

from __future__ import annotations

import functools
import inspect
import pickle
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import cloudpickle
import falcon
import flask
import httpx
import pytest
from a2wsgi import WSGIMiddleware
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_lite.exceptions import BackPressureError, RayServeException
from serve_lite.ingress import docs_path, ingress, is_ingress
from serve_lite.shipping import copy_value


class Item(BaseModel):
    name: str
    count: int = 1


def user(token: str) -> str:
    return token.upper()


def client_of(instance: Any) -> TestClient:
    return TestClient(instance._serve_asgi_app, raise_server_exceptions=False)


def test_a_method_with_a_route_gets_the_live_instance_as_self() -> None:
    app = FastAPI()

    @ingress(app)
    class Shop:
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        @app.get("/hello/{name}")
        def hello(self, name: str, times: int = 1) -> str:
            return f"{self.greeting} {name}" * times

        @app.post("/items")
        async def add(self, item: Item, request: Request) -> Item:
            return Item(name=item.name + request.url.path, count=item.count + 1)

    client = client_of(Shop("hi"))
    assert client.get("/hello/ann?times=2").json() == "hi annhi ann"
    assert client.post("/items", json={"name": "a"}).json() == {"name": "a/items", "count": 2}
    assert client.post("/items", json={"count": "x"}).status_code == 422


def test_the_class_stays_a_subclass_of_itself_with_its_name_and_signature() -> None:
    class Plain:
        """Docs."""

        def __init__(self, a: int, *, b: int = 2) -> None:
            self.a = a

    wrapped = ingress(FastAPI())(Plain)
    assert (wrapped.__name__, wrapped.__qualname__, wrapped.__doc__) == ("Plain", Plain.__qualname__, "Docs.")
    assert wrapped.__wrapped__ is Plain  # type: ignore[attr-defined]
    assert inspect.signature(wrapped) == inspect.signature(Plain)
    assert isinstance(wrapped(1), Plain) and is_ingress(wrapped) and not is_ingress(Plain)


def test_openapi_shows_the_parameters_without_self() -> None:
    app = FastAPI(title="Shop")

    @ingress(app)
    class Shop:
        @app.get("/hello")
        def hello(self, name: str) -> str:
            return name

    document = client_of(Shop()).get("/openapi.json").json()
    assert [p["name"] for p in document["paths"]["/hello"]["get"]["parameters"]] == ["name"]
    assert client_of(Shop()).get("/docs").status_code == 200
    assert docs_path(Shop) == "/docs"


def test_two_classes_on_one_app_have_their_own_routes_and_the_shared_ones() -> None:
    app = FastAPI()

    @app.get("/shared")
    def shared() -> str:
        return "shared"

    @ingress(app)
    class First:
        @app.get("/first")
        def first(self) -> str:
            return type(self).__name__

    @ingress(app)
    class Second:
        @app.get("/second")
        def second(self) -> str:
            return type(self).__name__

    one, two = client_of(First()), client_of(Second())  # in one process, as in local testing
    assert [one.get(p).status_code for p in ("/first", "/second", "/shared")] == [200, 404, 200]
    assert [two.get(p).status_code for p in ("/first", "/second", "/shared")] == [404, 200, 200]
    assert two.get("/second").json() == "Second"
    assert set(two.get("/openapi.json").json()["paths"]) == {"/second", "/shared"}
    assert set(one.get("/openapi.json").json()["paths"]) == {"/first", "/shared"}


def test_two_instances_of_one_class_answer_for_themselves() -> None:
    app = FastAPI()

    @ingress(app)
    class Echo:
        def __init__(self, word: str) -> None:
            self.word = word

        @app.get("/")
        def word(self) -> str:
            return self.word

    one, two = client_of(Echo("a")), client_of(Echo("b"))
    assert (one.get("/").json(), two.get("/").json()) == ("a", "b")


def test_routes_keep_their_order() -> None:
    app = FastAPI()

    @ingress(app)
    class Shop:
        @app.get("/items/special")
        def special(self) -> str:
            return "special"

        @app.get("/items/{item}")
        def item(self, item: str) -> str:
            return item

    @app.get("/{rest:path}")
    def rest(rest: str) -> str:
        return "rest"

    client = client_of(Shop())
    assert client.get("/items/special").json() == "special"
    assert client.get("/items/other").json() == "other"
    assert client.get("/elsewhere").json() == "rest"


def test_routes_of_included_routers_reach_the_instance_with_their_prefix_and_dependencies() -> None:
    app, inner, outer = FastAPI(), APIRouter(prefix="/inner"), APIRouter(prefix="/outer")
    seen: list[str] = []

    def note() -> None:
        seen.append("called")

    class View:
        def __init__(self) -> None:
            self.value = 41

        @inner.get("/value", dependencies=[Depends(note)])
        def get_value(self, plus: int = 0) -> int:
            return self.value + plus

    outer.include_router(inner)
    app.include_router(outer, tags=["t"])
    wrapped = ingress(app)(View)
    client = client_of(wrapped())
    assert client.get("/outer/inner/value?plus=1").json() == 42
    assert client.get("/value").status_code == 404
    assert seen == ["called"]
    operation = client.get("/openapi.json").json()["paths"]["/outer/inner/value"]["get"]
    assert operation["tags"] == ["t"] and [p["name"] for p in operation["parameters"]] == ["plus"]
    assert client_of(wrapped()).get("/outer/inner/value?plus=2").json() == 43


def test_inherited_routes_reach_the_instance() -> None:
    app = FastAPI()

    class Base:
        @app.get("/who")
        def who(self) -> str:
            return type(self).__name__

    @ingress(app)
    class Child(Base):
        pass

    assert client_of(Child()).get("/who").json() == "Child"


def test_dependencies_middleware_state_and_websockets_work_as_in_plain_fastapi() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        app.state.opened = True
        yield {"from_lifespan": "yes"}

    app = FastAPI(lifespan=lifespan)
    app.state.lock = threading.Lock()

    @ingress(app)
    class View:
        @app.get("/me")
        def me(self, request: Request, name: Annotated[str, Depends(user)]) -> list[Any]:
            return [name, request.state.from_lifespan, request.app.state.opened]

        @app.websocket("/ws")
        async def ws(self, socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(type(self).__name__ + await socket.receive_text())

        @app.get("/numbers")
        async def numbers(self) -> StreamingResponse:
            return StreamingResponse(str(i) for i in range(3))

    @app.middleware("http")  # registered after the class, and seen all the same
    async def add_header(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-late"] = "1"
        return response

    with client_of(View()) as client:
        answer = client.get("/me?token=ann")
        assert answer.json() == ["ANN", "yes", True] and answer.headers["x-late"] == "1"
        assert client.get("/numbers").text == "012"
        with client.websocket_connect("/ws") as socket:
            socket.send_text("!")
            assert socket.receive_text() == "View!"


def test_a_refusal_of_a_deployment_is_answered_with_its_status() -> None:
    app = FastAPI()

    @ingress(app)
    class View:
        @app.get("/")
        def root(self) -> None:
            raise BackPressureError(3, 2, 429, 1.5)

    answer = client_of(View()).get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert "max_queued_requests=2" in answer.text


def test_a_custom_openapi_function_sees_the_bound_routes() -> None:
    from fastapi.openapi.utils import get_openapi

    app = FastAPI()
    app.openapi = lambda: get_openapi(title="mine", version="1", routes=app.routes)  # type: ignore[method-assign]

    @ingress(app)
    class View:
        @app.get("/x")
        def x(self, q: int) -> int:
            return q

    document = client_of(View()).get("/openapi.json").json()
    assert document["info"]["title"] == "mine"
    assert [p["name"] for p in document["paths"]["/x"]["get"]["parameters"]] == ["q"]


def test_a_class_defined_again_uses_its_new_methods() -> None:
    app = FastAPI()

    def cell(answer: str) -> type:
        class View:
            @app.get("/x")
            def x(self) -> str:
                return answer

        return ingress(app)(View)

    cell("old")
    assert client_of(cell("new")()).get("/x").json() == "new"


def wsgi_function(environ: Any, start_response: Any) -> list[bytes]:
    return []


@pytest.mark.parametrize("kind", ["function", "flask", "django", "falcon"])
def test_a_wsgi_app_is_refused_with_the_line_to_write(kind: str) -> None:
    def made() -> Any:
        if kind == "flask":
            return flask.Flask("shop")
        if kind == "django":
            from django.core.handlers.wsgi import WSGIHandler

            return WSGIHandler.__new__(WSGIHandler)  # its constructor wants a configured project
        return falcon.App() if kind == "falcon" else wsgi_function

    app = made()
    with pytest.raises(TypeError, match="looks like a WSGI app.*a2wsgi.WSGIMiddleware"):
        ingress(app)

    @ingress(lambda: app)
    class Late:
        pass

    with pytest.raises(TypeError, match="looks like a WSGI app"):
        Late()


def test_a_wsgi_app_is_taken_through_an_adapter() -> None:
    assert is_ingress(ingress(WSGIMiddleware(wsgi_function))())


def test_a_class_travels_by_value_with_an_app_that_holds_locks() -> None:
    app = FastAPI()
    app.state.lock = threading.Lock()
    router = APIRouter()
    app.include_router(router)

    @ingress(app)
    class View:
        def __init__(self, word: str) -> None:
            self.word = word

        @app.get("/word")
        def get_word(self) -> str:
            return self.word

    arrived = copy_value(View, what="the class")
    assert client_of(arrived("here")).get("/word").json() == "here"
    assert client_of(View("there")).get("/word").json() == "there"


def test_routes_behind_any_decorator_reach_the_instance() -> None:
    app = FastAPI()

    def counted(function: Any) -> Any:
        def wrapper(self: Any, q: int) -> Any:  # tells nothing of what it wraps
            return function(self, q) + 1

        return wrapper

    @ingress(app)
    class View:
        base = 10

        @app.get("/counted")
        @counted
        def counted_one(self, q: int) -> int:
            return self.base + q

        @app.get("/one")
        @app.post("/two")
        def both(self) -> int:
            return self.base

    client = client_of(View())
    assert client.get("/counted?q=1").json() == 12
    assert (client.get("/one").json(), client.post("/two").json()) == (10, 10)


def test_static_and_class_methods_are_called_as_such() -> None:
    app = FastAPI()

    @ingress(app)
    class View:
        @staticmethod
        @app.get("/static")
        def static(q: int) -> int:
            return q

        @app.get("/nothing")
        @staticmethod
        def nothing() -> str:
            return "nothing"

        @classmethod
        @app.get("/class")
        def of_class(cls, q: int) -> str:
            return f"{cls.__name__} {q}"

    client = client_of(View())
    assert client.get("/static?q=3").json() == 3
    assert client.get("/nothing").json() == "nothing"
    assert client.get("/class?q=3").json() == "View 3"


def test_routes_of_a_subclass_are_not_those_of_the_class_it_extends() -> None:
    app = FastAPI()

    @ingress(app)
    class View:
        @app.get("/base")
        def base(self) -> str:
            return type(self).__name__

    class Extended(View):
        @app.get("/more")
        def more(self) -> str:
            return "more"

    assert client_of(View()).get("/more").status_code == 404
    assert client_of(Extended()).get("/more").json() == "more"
    assert client_of(Extended()).get("/base").json() == "Extended"


def test_a_handler_of_the_user_for_refusals_or_their_base_comes_first() -> None:
    app = FastAPI()

    @app.exception_handler(RayServeException)
    async def mine(request: Request, error: RayServeException) -> PlainTextResponse:
        return PlainTextResponse("mine", status_code=418)

    @ingress(app)
    class View:
        @app.get("/")
        def root(self) -> None:
            raise BackPressureError(3, 2, 429, 1.5)

    assert client_of(View()).get("/").text == "mine"


def test_a_refused_websocket_is_closed_with_try_again_later() -> None:
    app = FastAPI()

    @ingress(app)
    class View:
        @app.websocket("/ws")
        async def ws(self, socket: WebSocket) -> None:
            await socket.accept()
            raise BackPressureError(3, 2, 503, None)

    with client_of(View()).websocket_connect("/ws") as socket:
        assert socket.receive()["code"] == 1013


# --- other kinds of apps -------------------------------------------------------------------------


async def plain_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"plain"})


async def get(instance: Any, path: str = "/") -> httpx.Response:
    transport = httpx.ASGITransport(app=instance._serve_asgi_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        return await client.get(path)


@pytest.mark.anyio
async def test_a_starlette_app_an_asgi_function_and_a_builder_answer() -> None:
    starlette = Starlette(routes=[Route("/", lambda request: PlainTextResponse("starlette"))])

    def builder() -> Starlette:
        return starlette

    async def async_builder() -> Starlette:
        return starlette

    class View:
        pass

    assert (await get(ingress(starlette)(View)())).text == "starlette"
    assert (await get(ingress(plain_asgi)(View)())).text == "plain"
    assert (await get(ingress(builder)(View)())).text == "starlette"
    instance: Any = object.__new__(wrapped := ingress(async_builder)(View))
    await wrapped.__init__(instance)  # type: ignore[misc]
    assert (await get(instance)).text == "starlette"


def plain_asgi_through_sync(scope: Any, receive: Any, send: Any) -> Any:
    return plain_asgi(scope, receive, send)


class Factory:
    def build(self) -> Any:
        return plain_asgi

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        await plain_asgi(scope, receive, send)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "source",
    [
        plain_asgi_through_sync,
        Factory().serve,
        Factory().build,
        functools.partial(plain_asgi),
        functools.partial(lambda app: app, plain_asgi),
    ],
)
async def test_what_takes_three_arguments_is_an_app_and_what_takes_none_builds_one(source: Any) -> None:
    assert (await get(ingress(source)()())).text == "plain"


@pytest.mark.anyio
async def test_calling_the_class_itself_says_what_to_call_instead() -> None:
    made = ingress(plain_asgi)()()
    for arguments in ((), (1,), (1, 2)):
        with pytest.raises(TypeError, match=r"answers HTTP by its ASGI app.*handle\.method\.remote"):
            await made(*arguments)


@pytest.mark.anyio
async def test_a_bare_router_answers() -> None:
    router = APIRouter(prefix="/r")

    @ingress(router)
    class View:
        @router.get("/x")
        def x(self, q: int) -> int:
            return q

    assert (await get(View(), "/r/x?q=3")).json() == 3


@pytest.mark.anyio
async def test_a_class_may_build_its_app_after_its_constructor() -> None:
    @ingress()
    class View:
        def __init__(self) -> None:
            self.word = "late"

        def __serve_build_asgi_app__(self) -> Starlette:
            return Starlette(routes=[Route("/", lambda request: PlainTextResponse(self.word))])

    assert (await get(View())).text == "late"


@pytest.mark.anyio
async def test_without_a_class_one_is_made_that_keeps_its_arguments() -> None:
    made = ingress(plain_asgi)()
    instance = made(1, key=2)
    assert made.__name__ == "ASGIIngressDeployment"
    assert (instance.args, instance.kwargs) == ((1,), {"key": 2})
    assert (await get(instance)).text == "plain"


@pytest.mark.anyio
async def test_an_async_constructor_is_awaited_and_subclasses_must_be_async_too() -> None:
    @ingress(plain_asgi)
    class View:
        async def __init__(self) -> None:
            self.ready = True

    instance: Any = View.__new__(View)
    await View.__init__(instance)
    assert instance.ready and (await get(instance)).text == "plain"
    with pytest.raises(TypeError, match="must be `async def`"):

        class Sync(View):
            def __init__(self) -> None: ...


def test_an_app_in_a_module_travels_by_reference() -> None:
    made = ingress(plain_asgi)()
    source = pickle.loads(cloudpickle.dumps(made._serve_app_source))  # type: ignore[attr-defined]
    assert source.app is plain_asgi


# --- refusals ------------------------------------------------------------------------------------


def test_wrong_uses_are_refused_where_they_stand() -> None:
    class Callable_:
        def __call__(self) -> None: ...

    class Plain: ...

    def needs_argument(x: int) -> None: ...

    with pytest.raises(ValueError, match="must be used with a class"):
        ingress(FastAPI())(lambda: None)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="defines __call__"):
        ingress(FastAPI())(Callable_)
    with pytest.raises(ValueError, match="__serve_build_asgi_app__"):
        ingress()(Plain)
    with pytest.raises(TypeError, match="not the class 'Plain'"):
        ingress(Plain)
    with pytest.raises(TypeError, match="must take no arguments"):
        ingress(needs_argument)
    with pytest.raises(TypeError, match="needs an ASGI app"):
        ingress(5)


def test_a_view_without_self_is_refused() -> None:
    app = FastAPI()
    with pytest.raises(RayServeException, match="must have self as their first argument"):

        @ingress(app)
        class View:
            @app.get("/")
            def root() -> None: ...  # type: ignore[misc]
