"""The context of a gRPC handler by itself."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import grpclib.const
import pytest

from serve_lite.grpc_util import RayServegRPCContext, code_of, encoding_for, trailing_of


def test_a_context_is_the_same_after_pickling() -> None:
    context = RayServegRPCContext([("a", "1"), ("b-bin", b"2")], request_id="r", application="app", peer="p")
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("gone")
    context.set_trailing_metadata([("c", "3")])
    copy = pickle.loads(pickle.dumps(context))
    assert copy.invocation_metadata() == [("a", "1"), ("b-bin", b"2")]
    assert (copy.code(), copy.details(), copy.application()) == (grpc.StatusCode.NOT_FOUND, "gone", "app")
    assert copy.trailing_metadata() == [("request_id", "r"), ("c", "3")]


@pytest.mark.parametrize("code", [grpc.StatusCode.ABORTED, grpclib.const.Status.ABORTED, 10])
def test_a_code_may_be_any_library_s(code: Any) -> None:
    context = RayServegRPCContext()
    assert code_of(context) is None
    context.set_code(code)
    assert code_of(context) == 10


def test_the_request_id_cannot_be_replaced() -> None:
    context = RayServegRPCContext(request_id="r")
    context.set_trailing_metadata([("request_id", "other"), ("x", b"y")])
    assert context.trailing_metadata() == [("request_id", "r"), ("x", "y")]
    assert trailing_of(context) == [("x", b"y")]


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("set_code", 17),
        ("set_code", "NOT_FOUND"),
        ("set_code", True),
        ("set_compression", 3),
        ("set_trailing_metadata", ["ab c"]),
        ("set_trailing_metadata", [("Upper", "1")]),
        ("set_trailing_metadata", [("grpc-status", "0")]),
        ("set_trailing_metadata", [("a-bin", "text")]),
        ("set_trailing_metadata", [("a", "line\nbreak")]),
        ("set_trailing_metadata", [("a", 1)]),
    ],
)
def test_what_cannot_be_sent_is_refused_when_it_is_set(method: str, value: Any) -> None:
    context = RayServegRPCContext()
    with pytest.raises(ValueError):
        getattr(context, method)(value)
    assert (code_of(context), encoding_for(context), trailing_of(context)) == (None, 0, [])
