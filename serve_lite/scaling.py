"""`AutoscalingContext`: what a custom scaling policy is told about one deployment.

A policy is called with it and answers how many replicas there should be; `config.AutoscalingPolicy` names the
policy. Every field has a default, so that a policy can be tested with just the fields it reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from serve_lite.config import AutoscalingConfig
    from serve_lite.state.ids import DeploymentId

T = TypeVar("T")


class Lazy(Generic[T]):
    """A field of a dataclass whose value may also be given as a function, called when it is first read.

    Adding samples up is work, and most policies read only one or two of the sums.
    """

    def __init__(self, default: T | Callable[[], T]) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._slot = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> T: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self._default  # what `dataclasses` takes for the field's default
        value = instance.__dict__[self._slot]
        if callable(value):
            value = instance.__dict__[self._slot] = value()
        return value

    def __set__(self, instance: object, value: T | Callable[[], T]) -> None:
        instance.__dict__[self._slot] = value


@dataclasses.dataclass(kw_only=True)
class AutoscalingContext:
    """The load and the size of one deployment at one moment.

    Times are seconds on one clock, the one of `current_time`. The fields marked "lazy" may be given as functions
    without parameters; each is called at most once, when the field is first read.
    """

    deployment_id: DeploymentId | None = None
    deployment_name: str = ""
    app_name: str = ""
    current_num_replicas: int = 0  #: replicas that run now
    target_num_replicas: int = 0  #: replicas wanted before this decision
    running_replicas: Sequence[Any] = ()  #: their `ReplicaID`s
    #: requests running or queued, over the look-back period (lazy)
    total_num_requests: Lazy[float] = Lazy(0.0)
    #: those of them that wait for a replica (lazy)
    total_queued_requests: Lazy[float] = Lazy(0.0)
    #: {metric: {replica: value}}, from `record_autoscaling_stats` (lazy)
    aggregated_metrics: Lazy[Mapping[str, Mapping[Any, float]]] = Lazy(dict)
    #: {metric: {replica: samples, oldest first}} (lazy)
    raw_metrics: Lazy[Mapping[str, Mapping[Any, Sequence[Any]]]] = Lazy(dict)
    capacity_adjusted_min_replicas: int = 0  #: lower bound of the config, scaled by `target_capacity`
    capacity_adjusted_max_replicas: int = 0  #: upper bound of the config, scaled by `target_capacity`
    policy_state: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  #: what the policy gave back last time
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    current_time: float | None = None
    config: AutoscalingConfig | None = None

    @property
    def total_running_requests(self) -> float:
        """Requests that replicas work on, over the look-back period; never less than 0."""
        return max(0.0, self.total_num_requests - self.total_queued_requests)
