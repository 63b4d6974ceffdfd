"""A function without parameters may build the app: it is called in each replica, where the instance already is."""

import os

import httpx
from fastapi import FastAPI

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


def build() -> FastAPI:
    app = FastAPI()
    station = serve.get_replica_context().servable_object

    for sensor in station.sensors:

        @app.get(f"/{sensor}")
        async def read(sensor: str = sensor) -> dict:
            return {"sensor": sensor, "value": station.sensors[sensor]}

    return app


@serve.deployment
@serve.ingress(build)
class Station:
    def __init__(self, **sensors: float) -> None:
        self.sensors = sensors


serve.run(Station.bind(wind=5.5, rain=0.2))

assert httpx.get(f"{URL}/wind").json() == {"sensor": "wind", "value": 5.5}
assert httpx.get(f"{URL}/rain").json() == {"sensor": "rain", "value": 0.2}
assert httpx.get(f"{URL}/snow").status_code == 404
