"""Which router a deployment asks for: ours, one of the shipped ones, or one that the user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_lite.config import DEFAULT_ROUTER
from serve_lite.wire.messages import RouterChoice

_OURS = "serve_lite.request_router:"

#: Import paths of Ray Serve's own routers, for configs that also run on a cluster. "" is the built-in choice.
_RAYS: Mapping[str, str] = {
    "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter": "",
    "ray.serve._private.request_router.pow_2_router:PowerOfTwoChoicesRequestRouter": "",
    "ray.serve.experimental.round_robin_router:RoundRobinRouter": f"{_OURS}RoundRobinRouter",
    "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter": f"{_OURS}ConsistentHashRouter",
    # Ray's takes tokens from a central queue so as never to overfill a replica; our limits are strict anyway.
    "ray.serve.experimental.capacity_queue_router:CapacityQueueRouter": "",
}


def router_choice(config: Mapping[str, Any] | None, version: str) -> RouterChoice | None:
    """Return how callers are to choose, from a deployment's `request_router_config`; None: the built-in way.

    Args:
        version: of the deployment; with another one a router of the user's is loaded anew.
    """
    if config is None:
        return None
    path = str(config.get("request_router_class", DEFAULT_ROUTER))
    module, _, name = path.replace(":", ".").rpartition(".")
    path = f"{module}:{name}"
    path = _RAYS.get(path, path)
    if path in ("", DEFAULT_ROUTER):
        return None
    return RouterChoice(
        path=path,
        version="" if path.startswith(_OURS) else version,
        kwargs=config.get("request_router_kwargs", {}),
        initial_backoff_s=config.get("initial_backoff_s", 0.025),
        backoff_multiplier=config.get("backoff_multiplier", 2.0),
        max_backoff_s=config.get("max_backoff_s", 0.5),
    )


def is_shipped(choice: RouterChoice) -> bool:
    """Whether it is a router of ours, which may run anywhere."""
    return choice.path.startswith(_OURS)
