"""What a document says that only a cluster can use: accepted, kept, and told once in a single line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

#: Options of a deployment that choose among machines, or have been given up in Ray Serve.
OF_DEPLOYMENTS = (
    "placement_group_bundles",
    "placement_group_strategy",
    "placement_group_bundle_label_selector",
    "max_replicas_per_node",
    "is_driver_deployment",
)
OF_ACTORS = ("label_selector", "fallback_strategy", "object_store_memory")
OF_HTTP = ("location", "num_cpus", "fixed_number_replicas", "fixed_number_selection_seed")

logger = logging.getLogger(__name__)


def cluster_only(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of a right document that have no effect on one machine, each with the places where it stands."""
    found: dict[str, list[str]] = {}
    for key, place in _keys(document):
        found.setdefault(key, []).append(place)
    return found


def notice_of(document: Mapping[str, Any]) -> str:
    """Return one line that names all such keys; "" if there are none."""
    keys = [
        f"{key} ({places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''})"
        if places[0]
        else key
        for key, places in cluster_only(document).items()
    ]
    return f"Accepted, and without effect on one machine: {', '.join(keys)}." if keys else ""


def log_notice(document: Mapping[str, Any]) -> None:
    """Write the line into the daemon's log, if there is one, for those who deploy by REST."""
    if notice := notice_of(document):
        logger.info("%s", notice)


def _keys(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and place. A key that says as much as its absence is not told."""
    if document.get("controller_options"):
        yield "controller_options", ""
    yield from _told(document.get("http_options"), OF_HTTP, "http_options")
    listed = document.get("applications")
    apps = [document] if listed is None else listed
    for i, app in enumerate(apps):
        where = "" if listed is None else f"applications[{i}]."
        for j, deployment in enumerate(app.get("deployments", ())):
            place = f"{where}deployments[{j}]"
            yield from _told(deployment, OF_DEPLOYMENTS, place)
            yield from _told(deployment.get("ray_actor_options"), OF_ACTORS, f"{place}.ray_actor_options")


def _told(part: Mapping[str, Any] | None, keys: tuple[str, ...], place: str) -> Iterator[tuple[str, str]]:
    yield from ((key, place) for key in keys if (part or {}).get(key))
