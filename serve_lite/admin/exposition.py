"""Families from many replicas, written as one page for Prometheus: its text format or OpenMetrics.

Families of one name are written as one, each series with the labels of its replica. What cannot be said under one
name is said under two, with a warning: no metric may make others disappear.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from serve_lite.instruments import Family, Series

#: What a family's name ends with in the text, by kind.
_ENDINGS = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}

logger = logging.getLogger(__name__)


def render(
    families: Iterable[Family], accept: str = "", prefix: str = "", warned: set[str] | None = None
) -> tuple[bytes, str]:
    """Return the page and its content type.

    Args:
        families: of any number of replicas; earlier ones have the first claim to a name.
        accept: the request's header; chooses the format.
        prefix: in front of every name.
        warned: what was warned of before; each thing is said once.
    """
    warn_once = _Warnings(set() if warned is None else warned)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(list(_metrics(families, prefix, warn_once))))
    encode, kind = exposition.choose_encoder(accept)
    return encode(registry), kind


class _Page(Collector):
    """What `prometheus_client` writes out."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Warnings:
    def __init__(self, said: set[str]) -> None:
        self._said = said

    def __call__(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)


def _metrics(families: Iterable[Family], prefix: str, warn: _Warnings) -> Iterator[Metric]:
    for name, parts in _named(families, warn).items():
        metric = Metric(prefix + name, parts[0].help, parts[0].kind)
        if any(part.bounds != parts[0].bounds for part in parts):
            warn(f"Replicas have histograms {name!r} with different boundaries; compare them one by one.")
        written: set[frozenset[tuple[str, str]]] = set()
        for part in parts:
            for series in part.series:
                labels = dict(zip(part.label_names, series.labels, strict=True))
                if frozenset(labels.items()) in written:
                    warn(f"Metric {name!r} has two series with the same labels; the first is shown.")
                    continue
                written.add(frozenset(labels.items()))
                _write(metric, prefix + name, labels, part, series)
        yield metric


def _named(families: Iterable[Family], warn: _Warnings) -> dict[str, list[Family]]:
    """Put families of one name and kind together; one whose names are taken gets its kind behind its name."""
    named: dict[str, list[Family]] = {}
    owners: dict[str, str] = {}  #: of each name that appears in the text
    for family in families:
        name = wanted = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        while any(owners.get(each, name) != name for each in _names(name, family.kind)) or (
            name in named and named[name][0].kind != family.kind
        ):
            name += f"_{family.kind}"
        if name != wanted:
            warn(
                f"The {family.kind} {wanted!r} would be confused with another metric of that name, and is "
                f"shown as {name!r}."
            )
        owners.update(dict.fromkeys(_names(name, family.kind), name))
        named.setdefault(name, []).append(family)
    return named


def _names(name: str, kind: str) -> list[str]:
    return [name + ending for ending in _ENDINGS[kind]]


def _write(metric: Metric, name: str, labels: dict[str, str], family: Family, series: Series) -> None:
    match family.kind:
        case "counter":
            metric.add_sample(f"{name}_total", labels, series.values[0])
        case "histogram":
            *counts, total = series.values
            so_far = 0.0
            for bound, count in zip([*family.bounds, float("inf")], counts, strict=True):
                so_far += count
                le: str = floatToGoString(bound)  # type: ignore[no-untyped-call]  # theirs has no annotations
                metric.add_sample(f"{name}_bucket", {**labels, "le": le}, so_far)
            metric.add_sample(f"{name}_count", labels, so_far)
            metric.add_sample(f"{name}_sum", labels, total)
        case _:
            metric.add_sample(name, labels, series.values[0])
