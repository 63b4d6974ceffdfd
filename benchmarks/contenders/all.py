"""Every contender, in the order of the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.contenders.base import Contender
from benchmarks.contenders.bentoml import BentoML
from benchmarks.contenders.grpc_bare import Grpcio, Grpclib
from benchmarks.contenders.litserve import LitServe
from benchmarks.contenders.mosec import Mosec
from benchmarks.contenders.nginx_uvicorn import NginxUvicorn
from benchmarks.contenders.ray_serve import RayServe, RayServeAtItsBest
from benchmarks.contenders.serve_lite import ServeLite
from benchmarks.contenders.uvicorn_plain import UvicornPlain

OURS = ServeLite.name

CONTENDERS: Sequence[Contender] = (
    ServeLite(),
    RayServe(),
    RayServeAtItsBest(),
    LitServe(),
    BentoML(),
    Mosec(),
    UvicornPlain(),
    NginxUvicorn(),
    Grpclib(),
    Grpcio(),
)

BY_NAME: Mapping[str, Contender] = {contender.name: contender for contender in CONTENDERS}

#: Those that show what the machine can do at all: no replicas, no routing, nothing managed.
LIMITS = ("uvicorn", "nginx", "grpclib", "grpcio")
