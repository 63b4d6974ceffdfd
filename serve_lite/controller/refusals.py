"""What only the instance can know to be wrong with a deploy: names, kinds of documents, route prefixes.

Functions that raise, used by `goals.py`. What is *in* an option is checked before (options.py, schema.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from serve_lite.checks import invalid
from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite.state.goal import AppGoal, Goal
from serve_lite.wire.messages import DeployRequest

#: "#" separates the parts of a replica's id; a slash or a control character would do harm in paths and logs.
_BAD_IN_NAMES = re.compile(r"[#/\x00-\x1f\x7f]")


def place_of(request: DeployRequest, index: int, field: str) -> str:
    """Return where a field of an application stands in the document that the request came from."""
    is_list = request.document is not None and "applications" in request.document
    return f"applications[{index}].{field}" if is_list else field


def check_names(request: DeployRequest) -> None:
    seen: set[str] = set()
    for i, app in enumerate(request.apps):
        where = place_of(request, i, "name")
        if not app.name:
            raise invalid(where, "An application's name may not be empty.")
        for name, kind in [(app.name, "application"), *((d.name, "deployment") for d in app.deployments)]:
            if _BAD_IN_NAMES.search(name):
                raise invalid(
                    where,
                    f"{name!r} cannot be the name of {'an' if kind[0] == 'a' else 'a'} {kind}: "
                    "'#', '/' and control characters are not allowed.",
                )
        if app.name in seen:
            raise invalid(where, f"Two applications are called {app.name!r}; names must be unique.")
        seen.add(app.name)
        names = [d.name for d in app.deployments]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise InvalidConfigError(
                f"Two deployments of application {app.name!r} are called {double!r}; names must be unique."
            )


def check_kind(goal: Goal, request: DeployRequest) -> None:
    """Refuse to mix the two kinds of documents, as Ray Serve 2.7 does, while an application of one is live."""
    if not request.keeps_kind or goal.document is None or request.document is None:
        return
    was_many, is_many = ("applications" in document for document in (goal.document, request.document))
    is_live = any(a.submission.source == "declarative" and not a.is_deleting for a in goal.apps.values())
    if was_many is is_many or not is_live:
        return
    kinds = ("a single-application config", "a multi-application config")
    advice = (
        "use PUT /api/serve/deployments/, delete the application first (`serve delete default`), or add applications "
        "to it with ?merge=true.",
        "use PUT /api/serve/applications/, or delete the applications first.",
    )
    raise InvalidConfigError(
        f"You are trying to deploy {kinds[is_many]}, however {kinds[was_many]} has been deployed to the current "
        f"Serve instance already. Mixing single-app and multi-app is not allowed: {advice[was_many]}"
    )


def check_prefixes(apps: Mapping[str, AppGoal], request: DeployRequest) -> None:
    """Refuse a prefix that another application has, or is about to have."""
    owners: dict[str, str] = {}
    submitted = {s.name for s in request.apps}
    for app in apps.values():
        if app.is_deleting or app.name in submitted:
            continue
        wanted = app.submission.route_prefix if app.is_building else None
        for prefix in (app.route_prefix, wanted):
            if prefix is not None:
                owners[prefix] = app.name
    for i, submission in enumerate(request.apps):
        prefix = submission.route_prefix
        if prefix is None:
            continue
        if prefix in owners:
            error = RayServeException(
                f'Prefix {prefix} is being used by application "{owners[prefix]}". Failed to deploy application '
                f'"{submission.name}". Give it another route_prefix, or delete "{owners[prefix]}" first.'
            )
            error.path = place_of(request, i, "route_prefix")
            raise error
        owners[prefix] = submission.name
