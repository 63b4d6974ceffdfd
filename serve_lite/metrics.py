"""What an application counts, sets and observes: `serve.metrics.Counter`, `Gauge` and `Histogram`.

In a replica every value carries the tags `deployment`, `replica` and `application`; the daemon shows all of them at
`/metrics` on the admin port. Elsewhere (a driver, a notebook, an importer) nothing is recorded, but arguments are
checked all the same. Which replica it is, is looked up when a metric is used: modules are also imported where no
replica is, and in local testing mode several replicas share a process.

The values are kept by `prometheus_client`, which is imported when a replica has its first metric. How they travel is
in `replica/reporting.py` and `controller/metrics.py`.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Self

from serve_lite import instruments
from serve_lite.context import ReplicaID, current_request, get_replica_context, in_replica
from serve_lite.instruments import Family, Series

if TYPE_CHECKING:
    import prometheus_client

__all__ = ["Counter", "Gauge", "Histogram"]

#: tags that every metric of a replica has, in this order before its own
RESERVED = ("deployment", "replica", "application")
ROUTE = "route"  #: a tag key of this name is filled from the request

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
#: of the samples that a picture is made of
_ENDINGS = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum"]}
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9_]")
Tags = Mapping[str, str]


class _Metric:
    """Name and tags, and their checks; the kinds add how a value is recorded."""

    _kind: ClassVar[str]
    _bounds: tuple[float, ...] = ()

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...] | None) -> None:
        _check_name(name)
        if not isinstance(description, str):
            raise TypeError(
                f"The description of metric {name!r} must be a str, not {type(description).__name__}."
            )
        self._name = name
        self._description = description
        self._tag_keys = _checked_keys(name, tag_keys)
        self._label_keys = tuple(sorted(self._tag_keys))
        self._default_tags: dict[str, str] = {}
        self._is_discarded = _NAME.fullmatch(name) is None
        self._last: tuple[ReplicaID, _Kept] | None = None  #: where it was used last
        _labels_of(self)  # refuses keys that Prometheus cannot tell apart
        if self._is_discarded:
            warnings.warn(
                f"The metric name {name!r} is not valid, so the metric is discarded. A name is made of letters, "
                "digits, underscores and colons, and does not begin with a digit.",
                UserWarning,
                stacklevel=3,
            )
        self._find()  # in a replica: what it clashes with is said now

    @property
    def info(self) -> dict[str, Any]:
        """`name`, `description`, `tag_keys` and `default_tags`; with the tags of the replica, in one."""
        own = _own_tags() or {}
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": (*own, *self._tag_keys),
            "default_tags": {**own, **self._default_tags},
        }

    def set_default_tags(self, default_tags: Tags) -> Self:
        """Set values for tags that a call does not give, in the place of those set before. Returns the metric.

        (Ray Serve returns None here, and `ray.util.metrics` the metric.)

        Raises:
            ValueError: a key is not among the metric's `tag_keys`.
            TypeError: not a dictionary of strings.
        """
        _check_tags(self._name, default_tags)
        for key in default_tags:
            if key in RESERVED:
                raise ValueError(_reserved(self._name, key))
            if key not in self._tag_keys:
                raise ValueError(
                    f"Unrecognized tag key {key!r} for metric {self._name!r}. "
                    f"Its tag keys are {list(self._tag_keys)}."
                )
        self._default_tags = dict(default_tags)
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Travel by what it was made of; default tags stay behind."""
        return type(self), (self._name, self._description, self._tag_keys)

    def _cell(self, tags: Tags | None) -> Any:
        """Check the tags; return where the value belongs, None if it is not recorded."""
        values = self._values(tags)
        kept = self._find()
        return None if kept is None else kept.cell(values)

    def _values(self, tags: Tags | None) -> tuple[str, ...]:
        final: Tags = self._default_tags
        if tags is not None:
            _check_tags(self._name, tags)
            final = {**final, **tags}
        if ROUTE in self._label_keys and (tags is None or ROUTE not in tags):
            request = current_request()
            route = request.route if request is not None else ""
            final = {**final, ROUTE: route or final.get(ROUTE, "")}
        try:
            return tuple([final[key] for key in self._label_keys])
        except KeyError:
            missing = ", ".join(key for key in self._tag_keys if key not in final)
            raise ValueError(
                f"Missing value for tag key(s): {missing}. Metric {self._name!r} needs a value for each of its "
                "tag keys, in the call or by `set_default_tags`."
            ) from None

    def _find(self) -> _Kept | None:
        """Return what keeps the values in the replica that this runs in; None outside one."""
        if self._is_discarded or not in_replica():
            return None
        replica = get_replica_context().replica_id
        if self._last is None or self._last[0] is not replica:
            self._last = replica, _registry_of(replica).keep(self)
        return self._last[1]


class Counter(_Metric):
    """A number that only grows. Prometheus shows it with `_total` at the end of its name."""

    _kind = "counter"

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        """Make a counter. Making one of the same name again gives the same counter.

        Args:
            name: letters, digits, `_` and `:`; with another one a UserWarning says that the metric is discarded.
            description: shown as its help.
            tag_keys: names of its tags. `route` is filled from the current request; `deployment`, `replica` and
                `application` are always there and may not be named.

        Raises:
            TypeError: `tag_keys` is no tuple of strings.
            ValueError: the name is empty, a tag key is reserved, or the replica has a metric of this name that
                is of another kind or has other tags.
        """
        super().__init__(name, description, tag_keys)

    def inc(self, value: float = 1.0, tags: Tags | None = None) -> None:
        """Add `value`. From any thread.

        Raises:
            ValueError: `value` is not above 0, or a tag has no value.
            TypeError: `value` is no number, or a tag's value no string.
        """
        _check_number(self._name, value)
        if not 0 < value < math.inf:
            raise ValueError(
                f"Counter {self._name!r} can only grow: the value must be above 0, not {value!r}."
            )
        cell = self._cell(tags)
        if cell is not None:
            cell.inc(float(value))


class Gauge(_Metric):
    """A number that goes up and down; the last one set counts. It goes with its replica."""

    _kind = "gauge"

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        """Make a gauge; arguments and errors are those of `Counter`."""
        super().__init__(name, description, tag_keys)

    def set(self, value: float | None, tags: Tags | None = None) -> None:
        """Set it to `value`; None changes nothing. From any thread.

        Raises:
            ValueError: a tag has no value.
            TypeError: `value` is no number, or a tag's value no string.
        """
        if value is None:
            return
        _check_number(self._name, value)
        cell = self._cell(tags)
        if cell is not None:
            cell.set(float(value))


class Histogram(_Metric):
    """Counts observations by bucket, and adds them up."""

    _kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        """Make a histogram; see `Counter` for what is not said here.

        Args:
            boundaries: upper bounds of the buckets, above 0 and rising; a last bucket has no bound.

        Raises:
            ValueError: there are no boundaries, or one is not above 0 or not above the one before it.
            TypeError: `boundaries` is no sequence of numbers.
        """
        self._boundaries = boundaries
        self._bounds = _checked_bounds(name, boundaries)
        super().__init__(name, description, tag_keys)

    @property
    def info(self) -> dict[str, Any]:
        """As of the other kinds, with `boundaries`."""
        return {**super().info, "boundaries": self._boundaries}

    def observe(self, value: float, tags: Tags | None = None) -> None:
        """Count `value` in its bucket: the first whose bound is not below it. From any thread.

        Raises:
            ValueError: `value` is infinite or not a number, or a tag has no value.
            TypeError: `value` is no number, or a tag's value no string.
        """
        _check_number(self._name, value)
        if not math.isfinite(value):
            raise ValueError(
                f"Histogram {self._name!r} was told {value!r}, which would spoil the sum of all it observes."
            )
        cell = self._cell(tags)
        if cell is not None:
            cell.observe(float(value))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self), (self._name, self._description, self._boundaries, self._tag_keys)


# --- checks ---


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"A metric's name must be a str, not {type(name).__name__}.")
    if not name:
        raise ValueError("A metric needs a name; an empty one was given.")


def _checked_keys(name: str, keys: object) -> tuple[str, ...]:
    if not keys:
        return ()
    if not isinstance(keys, tuple):
        raise TypeError(
            f"`tag_keys` of metric {name!r} must be a tuple, not {type(keys).__name__}: {keys!r}."
        )
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"Tag keys must be str; metric {name!r} has {key!r}, a {type(key).__name__}.")
        if not key:
            raise ValueError(f"Metric {name!r} has an empty tag key.")
    if len(set(keys)) != len(keys):
        raise ValueError(f"Metric {name!r} has the same tag key twice: {list(keys)}.")
    return keys


def _labels_of(metric: _Metric) -> tuple[str, ...]:
    """Return the metric's tag keys as Prometheus can have them: `user-id` is shown as `user_id`."""
    labels = tuple(_label(key) for key in metric._label_keys)
    if len(set(labels)) != len(labels):
        raise ValueError(
            f"Tag keys of metric {metric._name!r} would have the same name in Prometheus: "
            f"{dict(zip(metric._label_keys, labels, strict=True))}."
        )
    if metric._kind == "histogram" and "le" in labels:
        raise ValueError(
            f"A histogram's tag key cannot be 'le' ({metric._name!r}): its buckets are named so."
        )
    return labels


def _label(key: str) -> str:
    label = _NOT_IN_LABELS.sub("_", key)
    if label[0].isdigit():
        return f"_{label}"
    return f"_{label.lstrip('_')}" if label.startswith("__") else label


def _checked_bounds(name: str, boundaries: object) -> tuple[float, ...]:
    if boundaries is None or (isinstance(boundaries, list | tuple) and not boundaries):
        raise ValueError(
            f'Histogram {name!r} needs `boundaries`, for example Histogram("latency_ms", boundaries=[10, 100]).'
        )
    if isinstance(boundaries, str) or not isinstance(boundaries, Sequence):
        raise TypeError(
            f"`boundaries` of histogram {name!r} must be a list of numbers, not {type(boundaries).__name__}."
        )
    before = 0.0
    for bound in boundaries:
        if isinstance(bound, str) or not isinstance(bound, Real):
            raise TypeError(f"Boundaries must be numbers; histogram {name!r} has {bound!r}.")
        if not 0 < float(bound) < math.inf:
            raise ValueError(f"Boundaries must be above 0 and finite; histogram {name!r} has {bound!r}.")
        if not float(bound) > before:
            raise ValueError(f"Boundaries must rise; histogram {name!r} has {list(boundaries)}.")
        before = float(bound)
    return tuple(float(bound) for bound in boundaries)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"Metric {name!r} takes a number, not {value!r}, a {type(value).__name__}.")


def _check_tags(name: str, tags: object) -> None:
    if not isinstance(tags, Mapping):
        raise TypeError(f"Tags of metric {name!r} must be a dict, not {type(tags).__name__}.")
    for key, value in tags.items():
        if not isinstance(value, str):
            raise TypeError(
                f"Tag values must be str; metric {name!r} was given {key}={value!r}, a {type(value).__name__}."
            )


def _reserved(name: str, key: str) -> str:
    return f"The tag {key!r} of metric {name!r} is reserved: in a replica every metric has it."


# --- what a replica keeps ---


class _Kept:
    """One metric of one replica, and its values."""

    def __init__(self, metric: _Metric, labels: tuple[str, ...], owner: _Registry) -> None:
        self.name = _shown_name(metric)
        self.kind = metric._kind
        self.keys = metric._label_keys
        self.bounds = metric._bounds
        self._description = _writable(metric._description)
        self._labels = labels
        self._metric: Any = owner.make(metric, labels)
        self._cells: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        if not labels:
            self._cells[()] = self._guarded(self._metric)

    def cell(self, values: tuple[str, ...]) -> Any:
        """Return the cell of these values, in the order of the sorted tag keys."""
        cell = self._cells.get(values)
        if cell is None:
            told = self._metric.labels(*map(_writable, values))
            cell = self._cells.setdefault(values, self._guarded(told))
        return cell

    def picture(self, own: Mapping[str, str]) -> Family:
        with self._lock:
            (metric,) = self._metric.collect()
        told = [self.name + ending for ending in _ENDINGS[self.kind]]
        rows: dict[tuple[str, ...], list[float]] = {}
        for sample in metric.samples:
            if sample.name not in told:
                continue
            row = tuple(sample.labels[label] for label in self._labels)
            rows.setdefault(row, []).append(sample.value)
        series = [
            Series([*own.values(), *row], _by_bucket(values) if self.bounds else values)
            for row, values in rows.items()
        ]
        return Family(
            self.name, self.kind, self._description, [*own, *self._labels], series, list(self.bounds)
        )

    def _guarded(self, cell: Any) -> Any:
        return _LockedHistogram(cell, self._lock) if self.kind == "histogram" else cell


class _LockedHistogram:
    """A histogram's cell whose sum and counts are seen to change together."""

    __slots__ = ("_cell", "_lock")

    def __init__(self, cell: prometheus_client.Histogram, lock: threading.Lock) -> None:
        self._cell, self._lock = cell, lock

    def observe(self, value: float) -> None:
        with self._lock:
            self._cell.observe(value)


class _Registry:
    """The metrics of one replica."""

    def __init__(self, replica: ReplicaID) -> None:
        # Lazily: a replica without metrics of its own never pays for it, and no other process does.
        import prometheus_client

        self._client = prometheus_client
        self._registry = prometheus_client.CollectorRegistry()
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()
        deployment = replica.deployment_id
        self._own = dict(
            zip(RESERVED, (deployment.name, replica.unique_id, deployment.app_name), strict=True)
        )

    def keep(self, metric: _Metric) -> _Kept:
        """Return what keeps this metric's values: the same for each metric of the same name.

        Raises:
            ValueError: there is one of that name that differs, or its tags are reserved.
        """
        for key in metric._tag_keys:
            if key in RESERVED:
                raise ValueError(_reserved(metric._name, key))
        with self._lock:
            kept = self._kept.get(_shown_name(metric))
            if kept is None:
                kept = self._kept[_shown_name(metric)] = _Kept(metric, _labels_of(metric), self)
        if (kept.kind, kept.keys, kept.bounds) != (metric._kind, metric._label_keys, metric._bounds):
            raise ValueError(
                f"This replica already has a metric {metric._name!r}: {_described(kept.kind, kept.keys, kept.bounds)}. "
                f"The same name cannot be {_described(metric._kind, metric._label_keys, metric._bounds)}. "
                "Give one of them another name."
            )
        return kept

    def make(self, metric: _Metric, labels: tuple[str, ...]) -> Any:
        """Make it with `prometheus_client`."""
        more = {"buckets": metric._bounds} if metric._bounds else {}
        kinds: dict[str, Any] = {
            "counter": self._client.Counter,
            "gauge": self._client.Gauge,
            "histogram": self._client.Histogram,
        }
        try:
            return kinds[metric._kind](
                metric._name, metric._description, labels, registry=self._registry, **more
            )
        except ValueError as error:
            raise ValueError(
                f"The {metric._kind} {metric._name!r} would be shown under a name that another metric of this "
                f"replica has (a counter adds `_total`, a histogram `_bucket`, `_count` and `_sum`): {error}. "
                "Give one of them another name."
            ) from error

    def pictures(self) -> list[Family]:
        with self._lock:
            kept = list(self._kept.values())
        return [family for one in kept if (family := one.picture(self._own)).series]


_registries: weakref.WeakKeyDictionary[ReplicaID, _Registry] = weakref.WeakKeyDictionary()
_registries_lock = threading.Lock()


def _registry_of(replica: ReplicaID) -> _Registry:
    with _registries_lock:
        registry = _registries.get(replica)
        if registry is None:
            registry = _registries[replica] = _Registry(replica)
        return registry


def _pictures() -> list[Family]:
    with _registries_lock:
        registries = list(_registries.values())
    return [family for registry in registries for family in registry.pictures()]


instruments.add_source(_pictures)


def _own_tags() -> dict[str, str] | None:
    """Return the tags of the replica that this runs in; None outside one."""
    if not in_replica():
        return None
    context = get_replica_context()
    return dict(zip(RESERVED, (context.deployment, context.replica_tag, context.app_name), strict=True))


def _writable(text: str) -> str:
    """Return the text without what UTF-8 cannot hold, such as halves of surrogate pairs: it would spoil the page."""
    return text.encode("utf-8", "replace").decode()


def _shown_name(metric: _Metric) -> str:
    return metric._name.removesuffix("_total") if metric._kind == "counter" else metric._name


def _described(kind: str, keys: tuple[str, ...], bounds: tuple[float, ...]) -> str:
    return f"a {kind} with tag keys {list(keys)}" + (f" and boundaries {list(bounds)}" if bounds else "")


def _by_bucket(cumulative: list[float]) -> list[float]:
    """Turn a histogram's samples, counts up to each bound and the sum, into counts in each bucket and the sum."""
    *counts, total = cumulative
    return [count - below for below, count in zip([0.0, *counts], counts, strict=False)] + [total]
