"""Routes may come from APIRouters with prefixes of their own, for classes that grow."""

import os

import httpx
from fastapi import APIRouter, FastAPI

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"

trains = APIRouter(prefix="/trains")
buses = APIRouter(prefix="/buses")


@trains.get("/lines")
async def train_lines() -> list[str]:
    return ["S1", "S2"]


@buses.get("/lines")
async def bus_lines() -> list[str]:
    return ["12", "12A"]


app = FastAPI()
app.include_router(trains)
app.include_router(buses, prefix="/city")


@serve.deployment
@serve.ingress(app)
class Timetable:
    def __init__(self) -> None:
        self.delay_minutes = 4

    @app.get("/delay")
    async def delay(self) -> int:
        return self.delay_minutes


serve.run(Timetable.bind(), route_prefix="/transit")

with httpx.Client(base_url=f"{URL}/transit") as client:
    assert client.get("/trains/lines").json() == ["S1", "S2"]
    assert client.get("/city/buses/lines").json() == ["12", "12A"]
    assert client.get("/delay").json() == 4
