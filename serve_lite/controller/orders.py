"""From what was planned to what is done: each action as an event that the view takes at once, and an order.

The event is folded before the order is given, so that nothing is planned twice. Orders go to the fleet, to builds and
to upkeep; nothing is decided here.
"""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import Callable
from typing import assert_never

from serve_lite.controller.books import Books
from serve_lite.controller.builds import Builds
from serve_lite.controller.fleet import Fleet, StopOrder
from serve_lite.controller.machine import Inventory, with_devices
from serve_lite.controller.spawner import Spawner
from serve_lite.controller.store import ReplicaRow
from serve_lite.controller.upkeep import Upkeep
from serve_lite.policy import actions as act
from serve_lite.policy.devices import in_ranges
from serve_lite.policy.standby import standby_of
from serve_lite.state import events as ev
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.ids import DeploymentId, replica_id
from serve_lite.state.observed import ReplicaView
from serve_lite.state.resources import Allotment
from serve_lite.wire.messages import InitRequest, PlaceRequest, ReconfigureRequest

_ALPHABET = string.ascii_lowercase + string.digits


class Orders:
    """Turns actions into events and orders.

    Args:
        epoch: of this daemon; replicas obey the newest.
        control_socket: path that replicas connect to for the handles they hold.
    """

    def __init__(
        self,
        books: Books,
        fleet: Fleet,
        builds: Builds,
        upkeep: Upkeep,
        spawner: Spawner,
        inventory: Inventory,
        *,
        epoch: int,
        control_socket: str,
        orphan_grace_s: float,
    ) -> None:
        self._books, self._fleet, self._builds, self._upkeep = books, fleet, builds, upkeep
        self._spawner, self._inventory = spawner, inventory
        self._epoch, self._control_socket, self._orphan_grace_s = epoch, control_socket, orphan_grace_s

    def begin(self, action: act.Action, now: float) -> tuple[ev.Event | None, Callable[[], None] | None]:
        """Return what the action means for the view at once, and what performs it."""
        match action:
            case act.StartReplica():
                return self._begin_start(action, now)
            case act.StopReplica():
                return self._begin_stop(action, now)
            case act.ReconfigureReplica():
                return self._begin_reconfigure(action, now)
            case act.PlaceReplica():
                return self._begin_place(action, now)
            case act.CheckHealth():
                event: ev.Event = ev.ReplicaHealthAsked(replica=action.replica, at=now)
                return event, lambda: self._fleet.check_health(action.replica, action.timeout_s)
            case act.StartBuild():
                event = ev.BuildStarted(app=action.app, revision=action.revision, at=now)
                return event, lambda: self._builds.start(action)
            case act.CancelBuild():
                event = ev.BuildEnded(app=action.app, revision=action.revision, at=now)
                return event, lambda: self._builds.cancel(action)
            case act.ForgetApp():
                return None, lambda: self._upkeep.forget(action)
            case act.MarkProven() | act.RollBack():
                return None, lambda: self._upkeep.look_back(action)
            case _:
                assert_never(action)

    def _begin_start(self, action: act.StartReplica, now: float) -> tuple[ev.Event, Callable[[], None]]:
        goal = self._wanted(action.deployment, is_standby=action.is_standby)
        name = replica_id(goal.id, "".join(secrets.choice(_ALPHABET) for _ in range(8)))
        row = ReplicaRow(
            id=name,
            deployment=goal.id,
            version=goal.version,
            settings=goal.settings,
            rank=action.rank,
            wall_time=time.time(),
            log_file=self._spawner.log_path("replica", name),
            allotment=action.allotment,
        )
        event = ev.ReplicaPlanned(
            replica=name,
            deployment=goal.id,
            version=goal.version,
            settings=goal.settings,
            rank=action.rank,
            world_size=goal.target,
            wall_time=row.wall_time,
            log_file=row.log_file,
            allotment=action.allotment,
            at=now,
        )
        request = InitRequest(
            replica_id=name,
            app_name=goal.id.app_name,
            deployment=goal.id.name,
            version=goal.version,
            code=goal.spec.code,
            init=goal.spec.init,
            config=goal.config,
            route_prefix=goal.route_prefix,
            rank=action.rank,
            world_size=goal.target,
            epoch=self._epoch,
            control_socket=self._control_socket,
            orphan_grace_s=self._orphan_grace_s,
            allotment=action.allotment,
        )
        environment = with_devices(goal.environment, action.allotment, self._inventory.machine)
        self._books.record(name, f"start: {action.reason}{_told(action.allotment)}")
        return event, lambda: self._fleet.start(row, request, environment, planned_at=now)

    def _begin_stop(self, action: act.StopReplica, now: float) -> tuple[ev.Event, Callable[[], None]]:
        view = self._books.observed.replicas[action.replica]
        order = self._stop_order(view, action.is_graceful) if action.can_obey else StopOrder.now()
        event = ev.ReplicaStopping(
            replica=action.replica,
            reason=action.reason,
            is_failure=action.is_failure,
            spread=secrets.randbelow(1000) / 1000,
            at=now,
        )
        self._books.record(action.replica, f"stop: {action.reason}")
        return event, lambda: self._fleet.stop(action.replica, order)

    def _begin_reconfigure(
        self, action: act.ReconfigureReplica, now: float
    ) -> tuple[ev.Event, Callable[[], None]]:
        deployment = self._books.observed.replicas[action.replica].deployment
        goal = self._wanted(deployment, is_standby=action.is_standby)
        request = ReconfigureRequest(config=goal.config, route_prefix=goal.route_prefix, epoch=self._epoch)
        event = ev.ReplicaReconfiguring(replica=action.replica, settings=goal.settings, at=now)
        self._books.record(action.replica, f"reconfigure: {action.reason}")
        return event, lambda: self._fleet.reconfigure(action.replica, request, goal.settings)

    def _begin_place(self, action: act.PlaceReplica, now: float) -> tuple[ev.Event, Callable[[], None]]:
        request = PlaceRequest(rank=action.rank, world_size=action.world_size, epoch=self._epoch)
        event = ev.ReplicaPlaced(
            replica=action.replica, rank=action.rank, world_size=action.world_size, at=now
        )
        self._books.record(action.replica, f"rank {action.rank} of {action.world_size}: {action.reason}")
        return event, lambda: self._fleet.place(action.replica, request)

    def _stop_order(self, view: ReplicaView, is_graceful: bool) -> StopOrder:
        goal = self._books.deployment(view.deployment)
        if goal is None:
            return StopOrder(is_graceful=is_graceful)
        return StopOrder(is_graceful=is_graceful, timeout_s=goal.config.graceful_shutdown_timeout_s)

    def _wanted(self, deployment: DeploymentId, *, is_standby: bool) -> DeploymentGoal:
        goal = self._books.deployment(deployment)
        wanted = standby_of(goal) if goal is not None and is_standby else goal
        assert wanted is not None, f"{deployment} was planned for and is not wanted"
        return wanted


def _told(allotment: Allotment) -> str:
    """Return " (GPU 0, 1; CPU 2-3)" for what a replica was given by number."""
    gpus, cpus = ", ".join(allotment.gpu_ids), in_ranges(allotment.cpu_ids)
    told = "; ".join(f"{kind} {ids}" for kind, ids in (("GPU", gpus), ("CPU", cpus)) if ids)
    return f" ({told})" if told else ""
