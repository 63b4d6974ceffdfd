"""Applications with `@serve.ingress` that `test_ingress_of_an_instance.py` deploys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, UploadFile, WebSocket
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

import serve_lite as serve

#: Where the applications write down what happened; in their environment.
FOLDER = "INGRESS_APPS_FOLDER"


def note(text: str) -> None:
    """Add a line to the diary of the test."""
    with open(Path(os.environ[FOLDER], "diary"), "a") as diary:
        diary.write(f"{text}\n")


async def gate() -> None:
    """Return once the test has opened the gate."""
    while not Path(os.environ[FOLDER], "gate").exists():
        await asyncio.sleep(0.01)


# --- a shop with everything that FastAPI offers ----------------------------------------------------


class Item(BaseModel):
    name: str
    price: float = 1.0


class StoredItem(Item):
    secret: str


class SoldOut(Exception):
    pass


class AddHeader:
    """Pure ASGI middleware."""

    def __init__(self, app: Any, value: str) -> None:
        self.app, self.value = app, value

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_more(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-pure", self.value.encode())]
            await send(message)

        await self.app(scope, receive, send_more)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    note("started up")
    yield {"currency": "EUR"}
    note("shut down")


shop_api = FastAPI(title="Shop", lifespan=lifespan)
shop_api.add_middleware(AddHeader, value="yes")
shop_api.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
shop_api.add_middleware(GZipMiddleware, minimum_size=500)
extras = APIRouter(prefix="/extras", tags=["extras"])
admin_api = FastAPI(title="Admin")


@shop_api.middleware("http")
async def add_late_header(request: Request, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["x-late"] = "yes"
    return response


@shop_api.exception_handler(SoldOut)
async def tell_sold_out(request: Request, error: SoldOut) -> JSONResponse:
    return JSONResponse({"sold_out": str(error)}, status_code=410)


@serve.deployment(name="Prices", max_ongoing_requests=1, max_queued_requests=1)
class Prices:
    async def of(self, name: str) -> float:
        return float(len(name))

    async def held(self) -> str:
        note("entered")
        await gate()
        return "let go"


def prices() -> Any:
    return serve.get_deployment_handle("Prices")


def session() -> Iterator[str]:
    note("session opened")
    yield "session"
    note("session closed")


def currency(request: Request) -> str:
    return str(request.state.currency)


@serve.deployment(name="Shop")
@serve.ingress(shop_api)
class Shop:
    """The docstring of the shop."""

    def __init__(self, prices: Any) -> None:
        self.prices = prices
        self.started = serve.get_replica_context().servable_object is None

    @shop_api.get("/items/special")
    def special(self) -> str:
        return "special"

    @shop_api.get("/items/{name}")
    async def item(self, name: str) -> Item:
        return Item(name=name, price=await self.prices.of.remote(name))

    @shop_api.post("/items", response_model=Item, status_code=201)
    async def add(self, item: Item) -> Any:
        return StoredItem(name=item.name, price=item.price, secret="s3cret")

    @shop_api.get("/cost/{name}")
    async def cost(
        self,
        name: str,
        handle: Annotated[Any, Depends(prices)],
        session: Annotated[str, Depends(session)],
        currency: Annotated[str, Depends(currency)],
    ) -> str:
        note("handled")
        return f"{await handle.of.remote(name)} {currency} {session} {self.started}"

    @shop_api.get("/held")
    async def held(self) -> str:
        return str(await self.prices.held.remote())

    @shop_api.post("/upload")
    async def upload(self, file: UploadFile) -> dict[str, Any]:
        return {"name": file.filename, "size": len(await file.read())}

    @shop_api.get("/large")
    def large(self) -> str:
        return "x" * 5000

    @shop_api.get("/sold-out")
    def sold_out(self) -> None:
        raise SoldOut("socks")

    @shop_api.get("/broken")
    def broken(self) -> None:
        raise LookupError("a secret of the shop")

    @shop_api.post("/order")
    async def order(self, tasks: BackgroundTasks) -> str:
        tasks.add_task(self.send_bill)
        return "ordered"

    async def send_bill(self) -> None:
        note("bill begun")
        await gate()
        note("bill sent")

    @shop_api.websocket("/chat/{room}")
    async def chat(self, socket: WebSocket, room: str) -> None:
        if room == "private":
            raise WebSocketException(code=4403, reason="members only")
        await socket.accept()
        async for text in socket.iter_text():
            if text == "bye":
                await socket.close(4001, "see you")
                return
            await socket.send_text(f"{room} {type(self).__name__} {text}")

    @extras.get("/gift")
    async def gift(self, to: str) -> str:
        return f"gift for {to} of {type(self).__name__}"

    @admin_api.get("/stock")
    async def stock(self) -> str:
        return f"stock of {type(self).__name__}"

    @admin_api.get("/full")
    async def full(self) -> None:
        raise serve.exceptions.BackPressureError(1, 1, 429, 2.5)

    @staticmethod
    @shop_api.get("/version")
    def version() -> str:
        return "7"

    @classmethod
    @shop_api.get("/kind")
    def kind(cls) -> str:
        return cls.__name__

    def count(self, n: int) -> int:
        return n + 1

    def __del__(self) -> None:
        note("destroyed")


shop_api.include_router(extras)
shop_api.mount("/admin", admin_api)
shop_api.mount("/static", StaticFiles(directory=Path(__file__).parent))


@shop_api.get("/{rest:path}")
def anything_else(rest: str) -> str:
    return f"no {rest}"


shop = Shop.bind(Prices.bind())


# --- one application for two classes; classes that extend others -------------------------------------

shared_api = FastAPI()


@shared_api.get("/shared")
def shared() -> str:
    return "shared"


class Greets:
    @shared_api.get("/name")
    def name(self) -> str:
        return type(self).__name__


@serve.deployment
@serve.ingress(shared_api)
class First(Greets):
    @shared_api.get("/first")
    def first(self) -> str:
        return "first"


@serve.deployment
@serve.ingress(shared_api)
class Second(Greets):
    @shared_api.get("/second")
    def second(self) -> str:
        return "second"


@serve.deployment
class Third(First.func_or_class):  # type: ignore[misc]  # a variable as a base
    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    @shared_api.get("/third")
    def third(self) -> str:
        return self.word


@serve.deployment
class Forgetful(First.func_or_class):  # type: ignore[misc]  # a variable as a base
    def __init__(self) -> None: ...


# --- every other form of application -----------------------------------------------------------------


def starlette_app(word: str) -> Starlette:
    async def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse(word)

    return Starlette(routes=[Route("/", answer)])


router = APIRouter()


@serve.deployment
@serve.ingress(router)
class OfARouter:
    @router.get("/")
    def root(self) -> PlainTextResponse:
        return PlainTextResponse("router")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"  # as plain applications do; they have no lifespan
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"function"})


class Asgi:
    """An application that takes neither a lifespan nor a WebSocket, and refuses as a handle would."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/full"):
            raise serve.exceptions.BackPressureError(1, 1, 429, 2.5)
        await asgi(scope, receive, send)


def build() -> Starlette:
    note("built")
    return starlette_app("builder")


async def build_async() -> Starlette:
    await asyncio.sleep(0)
    return starlette_app("async builder")


@serve.deployment
@serve.ingress()
class Late:
    def __init__(self, word: str) -> None:
        self.word = word

    def __serve_build_asgi_app__(self) -> Starlette:
        return starlette_app(self.word)


@serve.deployment
@serve.ingress()
class LateAsync:
    async def __init__(self) -> None:
        await asyncio.sleep(0)
        self.word = "late async"

    async def __serve_build_asgi_app__(self) -> Starlette:
        return starlette_app(self.word)


@serve.deployment
class Word:
    def say(self) -> str:
        return "functional"


functional_api = FastAPI()


@functional_api.get("/")
async def functional_root() -> PlainTextResponse:
    word = serve.get_replica_context().servable_object.args[0]
    return PlainTextResponse(await word.say.remote())


class Empty:
    pass


FORMS = {
    "router": OfARouter.bind(),
    "starlette": serve.deployment(serve.ingress(starlette_app("starlette"))(Empty)).bind(),
    "function": serve.deployment(serve.ingress(asgi)()).bind(),
    "instance": serve.deployment(serve.ingress(Asgi())()).bind(),
    "builder": serve.deployment(serve.ingress(build)()).bind(),
    "async-builder": serve.deployment(serve.ingress(build_async)()).bind(),
    "late": Late.bind("late"),
    "late-async": LateAsync.bind(),
    "functional": serve.deployment(serve.ingress(functional_api)()).bind(Word.bind()),
}
SAYS = {name: name.replace("-", " ") for name in FORMS} | {"instance": "function"}


# --- applications that fail ---------------------------------------------------------------------------


@asynccontextmanager
async def failing_lifespan(app: FastAPI) -> AsyncIterator[None]:
    raise ConnectionError("the database is not there")
    yield


failing_api = FastAPI(lifespan=failing_lifespan)


@serve.deployment(max_constructor_retry_count=1)
@serve.ingress(failing_api)
class NeverStarts:
    pass
