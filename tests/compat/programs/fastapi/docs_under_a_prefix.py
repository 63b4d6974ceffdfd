"""FastAPI's own documentation is there, under the application's route prefix."""

import os

import httpx
from fastapi import FastAPI

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI(title="Tides", version="3.1")


@serve.deployment
@serve.ingress(app)
class Tides:
    @app.get("/height", summary="Height of the tide")
    async def height(self, hour: int) -> float:
        """Metres above the chart's zero."""
        return 1.5 + (hour % 12) / 10


serve.run(Tides.bind(), name="tides", route_prefix="/v1/tides")

with httpx.Client(base_url=f"{URL}/v1/tides") as client:
    assert client.get("/height?hour=15").json() == 1.8
    schema = client.get("/openapi.json").json()
    assert schema["info"] == {"title": "Tides", "version": "3.1"}
    assert schema["paths"]["/height"]["get"]["summary"] == "Height of the tide"
    assert schema["servers"] == [{"url": "/v1/tides"}]
    assert "/v1/tides/openapi.json" in client.get("/docs").text
