"""Writes down what a store holds that has something in every table, as this release writes it.

Run once for each new number of the schema, before anything else changes, and commit both files it makes:

    python -m tests.controller.freeze_store schema-2

`test_store_upgrades.py` opens each of them with the code as it is then. A file that was committed is never written
again: it stands for what users have on their disks.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from serve_lite.config import DeploymentConfig
from serve_lite.controller.store import EventRow, ReplicaRow, Store, Stored
from serve_lite.options import apply_overrides
from serve_lite.schema import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from serve_lite.state.goal import (
    AppGoal,
    AppSubmission,
    BuildRequest,
    CodeEnvironment,
    DeploymentGoal,
    DeploymentSpec,
    Goal,
)
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import DeploymentView, ReplicaView, StartRecord

FOLDER = Path(__file__).parent / "stores"

#: Every option of a deployment, none of them at its default.
OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 7,
    "max_queued_requests": 30,
    "user_config": {"threshold": 0.5, "labels": ["a", "b"], "nothing": None},
    "autoscaling_config": {
        "min_replicas": 2,
        "initial_replicas": 3,
        "max_replicas": 9,
        "target_ongoing_requests": 3,
    },
    "graceful_shutdown_wait_loop_s": 1.5,
    "graceful_shutdown_timeout_s": 11.0,
    "health_check_period_s": 3.0,
    "health_check_timeout_s": 4.0,
    "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 1, "resources": {"lamp": 1}},
    "max_constructor_retry_count": 5,
    "rolling_update_percentage": 0.5,
    "max_surge_percent": 50,
    "backpressure_config": {"status_code": 429, "retry_after_s": 2.5},
    "serialize_sync": True,
    "sync_threads": 3,
    "logging_config": {"encoding": "JSON", "log_level": "DEBUG", "enable_access_log": False},
    "request_router_config": {"request_router_class": "routers:Mine"},
    "placement_group_bundles": [{"CPU": 1.0, "GPU": 1.0, "lamp": 1.0}],
}

MODEL, GREETER = DeploymentId("Model", "shop"), DeploymentId("Greeter", "default")
ENVIRONMENT = CodeEnvironment(cwd="/srv/shop", sys_path=("/srv/shop", "/srv/lib"), env_vars={"MODE": "prod"})


def shop(revision: int, **options: Any) -> AppGoal:
    """Return an application of a config file, built, at one of its revisions."""
    config = apply_overrides(DeploymentConfig(), (), {**OPTIONS, **options})
    spec = DeploymentSpec(
        name="Model", config=DeploymentConfig(), code=b"\x80code", init=b"\x80init", is_ingress=True, is_asgi=True,
        docs_path="/docs", calls=("Other",), added_path=("/srv/more",), version="7",
        configured_options=("num_replicas",),
    )  # fmt: skip
    document = {"name": "shop", "import_path": "shop:app", "route_prefix": "/shop", "args": {"size": "small"}}
    goal = DeploymentGoal(
        id=MODEL, spec=spec, config=config, version=f"version{revision}", settings=f"settings{revision}", target=3,
        environment=ENVIRONMENT, route_prefix="/shop",
    )  # fmt: skip
    submission = AppSubmission(
        name="shop", route_prefix="/shop", source="declarative", environment=ENVIRONMENT,
        build=BuildRequest(app_name="shop", import_path="shop:app", args={"size": "small"}),
        overrides=({"name": "Model", "user_config": {"threshold": 0.5}},), document=document, code_version="c0de",
        logging_config={"log_level": "WARNING"},
    )  # fmt: skip
    return AppGoal(
        name="shop", revision=revision, submission=submission, deployed_at=1_700_000_000.5 + revision,
        deployments=(goal,), retired=(), route_prefix="/shop", code_version="c0de",
    )  # fmt: skip


def greeter() -> AppGoal:
    """Return an application of `serve.run` whose newest version could not be built."""
    spec = DeploymentSpec(name="Greeter", config=DeploymentConfig(), code=b"\x00\xff", init=b"")
    goal = DeploymentGoal(
        id=GREETER, spec=spec, config=DeploymentConfig(), version="v", settings="s", target=1
    )
    return AppGoal(
        name="default", revision=2, submission=AppSubmission(), deployed_at=1_700_000_001.0, deployments=(goal,),
        retired=(goal,), build_error="ImportError: no module named 'shop'",
    )  # fmt: skip


GOAL = Goal(
    revision=4,
    apps={"default": greeter(), "shop": shop(4)},
    document={"applications": [{"name": "shop", "import_path": "shop:app"}], "target_capacity": 50.0},
    target_capacity=50.0,
    capacity_direction="DOWN",
)
VIEW = DeploymentView(
    version="version4", settings="settings4", status=DeploymentStatus.UNHEALTHY,
    trigger=DeploymentStatusTrigger.REPLICA_STARTUP_FAILED, message="it failed", since=12.5,
    starts=StartRecord(
        failures=2, rounds=1, has_started=True, ready_at=3.5, failed_at=4.5, spread=0.25, error="ValueError: no",
    ),
    dead=(
        ReplicaView(
            id="shop#Model#dead0000", deployment=MODEL, version="version3", settings="settings3",
            state=ReplicaState.STOPPING, begun_at=1.0, since=2.0,
        ),
    ),
)  # fmt: skip
ROWS = (
    ReplicaRow(id="default#Greeter#abcdefgh", deployment=GREETER, version="v", settings="s"),
    ReplicaRow(
        id="shop#Model#aaaaaaaa", deployment=MODEL, version="version4", settings="settings4", rank=1, pid=4242,
        start_time=99, was_ready=True, wall_time=1_700_000_002.0, log_file="replica_shop.log",
    ),
)  # fmt: skip
EVENTS = [
    EventRow(at=1_700_000_000.0 + n, subject="shop", text=f"event {n}\nwith two lines") for n in range(4)
]


async def fill(path: Path) -> None:
    """Make a store with something in every table."""
    async with Store(path) as store:
        await store.save_goal(Goal(revision=1, apps={"default": greeter(), "shop": shop(1)}))
        await store.save_goal(
            Goal(revision=3, apps={"default": greeter(), "shop": shop(3, user_config={"threshold": 0.4})})
        )
        await store.save_goal(GOAL)
        for row in ROWS:
            await store.plan_replica(row)
        store.put_deployment(MODEL, VIEW)
        store.add_events(EVENTS)


async def read(path: Path) -> dict[str, Any]:
    """Return everything that a store holds, as JSON has it."""
    async with Store(path) as store:
        return shown(store.stored, [await store.revisions(n) for n in GOAL.apps], await store.recent_events())


def shown(stored: Stored, revisions: list[list[AppGoal]], events: list[EventRow]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(
        msgspec.json.encode(
            {
                "goal": stored.goal,
                "apps": list(stored.goal.apps),
                "deployments": [[d.app_name, d.name, view] for d, view in stored.deployments.items()],
                "replicas": stored.replicas,
                "node_id": stored.node_id,
                "epoch": stored.epoch,
                "revisions": revisions,
                "events": events,
            }
        )
    )
    return plain


def dump(path: Path) -> str:
    """Return a store as SQL, its schema's number included."""
    database = sqlite3.connect(path)
    number = database.execute("PRAGMA user_version").fetchone()[0]
    text = "\n".join(database.iterdump())
    database.close()
    return f"PRAGMA user_version = {number};\n{text}\n"


def load(sql: str, path: Path) -> None:
    """Make the file that `dump` was given."""
    database = sqlite3.connect(path)
    database.executescript(sql)
    database.execute("PRAGMA journal_mode = WAL")
    database.close()


def main() -> None:
    name = sys.argv[1]
    if (FOLDER / f"{name}.sql").exists():
        raise SystemExit(f"{name} is written already, and stands for what users have on their disks.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        asyncio.run(fill(path))
        sql = dump(path)
        (FOLDER / f"{name}.sql").write_text(sql)
        (FOLDER / f"{name}.json").write_text(
            json.dumps(asyncio.run(read(path)), indent=1, sort_keys=True) + "\n"
        )


if __name__ == "__main__":
    main()
