"""Django, in one file. Its app is built in each replica, by Django's own function."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import include, path, reverse
from django.utils.decorators import async_only_middleware
from django.views.decorators.http import require_POST

import serve_lite as serve
from tests.frameworks import kitchen
from tests.frameworks.prices import Prices


@async_only_middleware
def cors(get_response: Any) -> Any:
    async def middleware(request: HttpRequest) -> HttpResponseBase:
        answer: HttpResponseBase = await get_response(request)
        if request.headers.get("origin") == kitchen.SITE:
            answer["access-control-allow-origin"] = kitchen.SITE
        return answer

    return middleware


async def json_view(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return JsonResponse(json.loads(request.body), status=201)
    return JsonResponse({"query": request.GET.dict()})


@require_POST
def form(request: HttpRequest) -> HttpResponse:  # in a thread
    return JsonResponse({"name": request.POST["name"], "tags": request.POST.getlist("tag")})


@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    file: Any = request.FILES["file"]
    data = file.read()
    return JsonResponse({"name": file.name, "size": len(data), "end": data[-3:].decode()})


async def cookies(request: HttpRequest) -> HttpResponse:
    answer = JsonResponse(request.COOKIES)
    answer.set_cookie("visit", "first")
    answer.set_cookie("taste", "salty")
    return answer


async def redirect(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("json"))


async def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError(kitchen.SECRET)


async def events(request: HttpRequest) -> HttpResponseBase:
    async def lines() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await kitchen.gate("events")
        yield "data: two\n\n"

    return StreamingHttpResponse(lines(), content_type="text/event-stream")


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(open(kitchen.served_file(), "rb"), filename="file.bin")


async def where(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "client": request.META["REMOTE_ADDR"],
            "scheme": request.scheme,
            "path": request.path,
            "url": request.build_absolute_uri(reverse("json")),
        }
    )


def price(request: HttpRequest, dish: str) -> HttpResponse:
    prices = serve.get_replica_context().servable_object.args[0]
    return JsonResponse(prices.price_of.remote(dish).result(timeout_s=30))


async def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse(kitchen.LARGE, content_type="text/plain")


async def mounted(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse({"hello": name})


urlpatterns = [
    path("json", json_view, name="json"),
    path("form", form),
    path("upload", upload),
    path("cookies", cookies),
    path("redirect", redirect),
    path("fail", fail),
    path("events", events),
    path("file", file),
    path("where", where),
    path("large", large),
    path("price/<dish>", price),
    path("sub/", include([path("hello/<name>", mounted)])),
]

settings.configure(
    SECRET_KEY="not one",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.gzip.GZipMiddleware", f"{__name__}.cors"],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django": {"handlers": ["console"], "level": "INFO"}},
    },
)
django.setup()

served = serve.deployment(serve.ingress(get_asgi_application)()).bind(Prices.bind())
