"""The errors users see: one tree, and each says what happened and what to do, also after a trip to another process."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

import serve_lite as serve
from serve_lite import exceptions
from serve_lite.checks import ConfigTypeError, invalid
from serve_lite.exceptions import (
    BackPressureError,
    DeploymentNotFoundError,
    DeploymentUnavailableError,
    InstanceError,
    InvalidConfigError,
    PortInUseError,
    RayServeException,
    RemoteUserError,
    ReplicaDiedError,
    ReplicaUnavailableError,
    RequestCancelledError,
    ServeLiteError,
    TaskCancelledError,
    UnknownMethodError,
    gRPCStatusError,
)
from serve_lite.state.ids import DeploymentId

D = DeploymentId(name="Model", app_name="shop")

#: Every class of the tree: an object of it, its bases, and words of its text.
CASES: list[tuple[Exception, tuple[type, ...], tuple[str, ...]]] = [
    (ServeLiteError("x"), (Exception,), ("x",)),
    (RayServeException("x"), (ServeLiteError,), ("x",)),
    (TaskCancelledError("x"), (ServeLiteError,), ("x",)),
    (
        BackPressureError(7, 5, 429, 1.5),
        (RayServeException,),
        ("num_queued_requests=7", "max_queued_requests=5"),
    ),
    (RequestCancelledError("r1"), (RayServeException, TaskCancelledError), ("Request r1 was cancelled.",)),
    (RequestCancelledError(), (RayServeException, TaskCancelledError), ("Request was cancelled.",)),
    (
        DeploymentUnavailableError(D),
        (RayServeException,),
        ("Model", "shop", "failed to deploy", "deploy again"),
    ),
    (DeploymentNotFoundError(D), (RayServeException,), ("Model", "does not exist", "serve.status()")),
    (ReplicaUnavailableError("a#D#1"), (RayServeException,), ("a#D#1", "no longer available", "choose")),
    (
        ReplicaDiedError("a#D#1", "signal 9"),
        (RayServeException,),
        ("a#D#1", "died", "signal 9", "call again", "log"),
    ),
    (ReplicaDiedError("a#D#1"), (RayServeException,), ("running this request.",)),
    (
        UnknownMethodError("go", ["run"], "a#B#1", "v1"),
        (RayServeException,),
        ("method 'go' that does not exist", "['run']", "a#B#1 runs version v1."),
    ),
    (
        UnknownMethodError("go", ["run"], "a#B#1", "v1").called_by("a#A#2", "v2"),
        (RayServeException,),
        ("a#B#1 runs version v1; its caller, a#A#2, version v2.",),
    ),
    (RemoteUserError("shop.OutOfStock", "none left", "Traceback ..."), (RayServeException,), ("none left",)),
    (gRPCStatusError(KeyError("k"), 5, "gone"), (RayServeException,), ("gone", "5")),
    (gRPCStatusError(KeyError("k")), (RayServeException,), ("'k'",)),
    (invalid("a.b", "a.b is 3; it must be 4."), (ServeLiteError, ValueError), ("it must be 4",)),
    (invalid("a", "a is 3.", wrong_type=True), (InvalidConfigError, TypeError), ("a is 3",)),
    (InstanceError("x"), (ServeLiteError, RuntimeError), ("x",)),
    (
        PortInUseError("127.0.0.1", 8000, "nginx (pid 7)"),
        (InstanceError,),
        ("Failed to bind to address '127.0.0.1:8000'", "nginx (pid 7)", "Choose another port"),
    ),
]


def by_name(case: Any) -> str:
    return type(case).__name__ if isinstance(case, Exception) else ""


@pytest.mark.parametrize(("error", "bases", "words"), CASES, ids=by_name)
def test_an_error_says_what_happened_and_what_to_do(
    error: Exception, bases: tuple[type, ...], words: tuple[str, ...]
) -> None:
    assert isinstance(error, bases)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("error", [case[0] for case in CASES], ids=by_name)
def test_an_error_is_the_same_after_pickling(error: Exception) -> None:
    error.add_note("said on the way")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error)
    assert copy.__notes__ == ["said on the way"]
    for name, value in vars(error).items():
        assert repr(getattr(copy, name)) == repr(value), name


def test_every_class_of_the_module_is_among_the_cases_and_explained() -> None:
    for name in exceptions.__all__:
        cls = getattr(exceptions, name)
        assert any(type(case[0]) is cls for case in CASES), name
        assert f" {name}" in str(exceptions.__doc__), f"{name} is not in the tree of the module's docstring"
        assert len(str(cls.__doc__)) > 60, name
    assert type(invalid("", "")) is InvalidConfigError
    assert type(invalid("", "", wrong_type=True)) is ConfigTypeError


def test_the_base_has_both_names() -> None:
    assert exceptions.ServeException is exceptions.RayServeException is serve.exceptions.RayServeException


def test_back_pressure_carries_what_the_answer_needs() -> None:
    error = BackPressureError(num_queued_requests=2, max_queued_requests=1)
    assert (error.status_code, error.retry_after_s, error.args) == (503, None, (2, 1, 503, None))
    assert error.message == (
        "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=1)."
    )


def test_a_cancelled_request_does_not_cancel_the_task_that_waits() -> None:
    assert not issubclass(RequestCancelledError, asyncio.CancelledError)


def test_what_an_http_client_is_told_has_no_advice_for_the_author() -> None:
    assert DeploymentUnavailableError(D).message == (
        "Deployment(name='Model', app='shop') is unavailable because it failed to deploy."
    )
    assert ReplicaUnavailableError("r").message == "Replica r is no longer available."


def test_the_place_of_a_wrong_value_survives_the_trip() -> None:
    error = pickle.loads(pickle.dumps(invalid("applications[0].name", "no")))
    assert error.path == "applications[0].name"
