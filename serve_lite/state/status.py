"""What users are told: derived from the goal and what is observed, every time it is asked for.

The shapes are Ray Serve's (schema.py). Where an application stands follows from where its deployments stand
(applications.py); where those stand is kept in the view (`lifecycle.DEPLOYMENT_MOVES`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from serve_lite.options import config_to_dict
from serve_lite.schema import (
    ApplicationDetails,
    ApplicationStatusOverview,
    AutoscalingDetail,
    DeploymentDetails,
    DeploymentNode,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    DeploymentTopology,
    Phase,
    ProxyDetails,
    ProxyStatus,
    ReplicaDetails,
    ServeActorDetails,
    ServeInstanceDetails,
    ServeStatus,
    Target,
    TargetGroup,
    TopologyNode,
)
from serve_lite.state.applications import app_status
from serve_lite.state.environment import without_credentials
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal, takes_scaler
from serve_lite.state.ids import DeploymentId, ReplicaId, suffix_of
from serve_lite.state.observed import Observed, ReplicaView
from serve_lite.state.resources import needs_of

_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
REDACTED = "<redacted>"  #: stands for the values of environment variables, which are often secrets


class ProxyFacts(msgspec.Struct, frozen=True):
    """One process that answers requests."""

    number: int  #: of a proxy process, from 1; 0: it is the daemon
    pid: int  #: 0: not known
    status: ProxyStatus

    def name_in(self, node_id: str) -> str:
        """Return what it is called: Ray Serve has one proxy for each node."""
        return f"{node_id}-proxy-{self.number}" if self.number else node_id


class InstanceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What answers say of the instance itself."""

    node_id: str
    epoch: int = 0
    pid: int = 0
    http_options: dict[str, Any] = {}
    grpc_options: dict[str, Any] = {}
    proxy_location: str | None = "EveryNode"
    proxies: tuple[ProxyFacts, ...] = ()
    log_file: str | None = None
    memory_limits: str = ""  #: who holds replicas to their memory; "": none has any
    wall_minus_monotonic: float = 0.0  #: seconds between the clock of events and the one that is shown


class RevisionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of an application, as its history shows it."""

    revision: int
    is_current: bool  #: it is what serves, or is about to
    deployed_at_s: float  #: seconds since the Unix epoch
    source: str  #: "declarative" or "imperative"
    import_path: str | None  #: None for applications from scripts
    route_prefix: str | None
    replicas: dict[str, int]  #: wanted, by deployment
    config: dict[str, Any] | None  #: its part of the document; None for applications from scripts
    reason: str = ""  #: why it came back, if nobody asked for that


def instance_status(goal: Goal, observed: Observed, facts: InstanceFacts) -> ServeStatus:
    """Return what `serve.status()` answers."""
    return ServeStatus(
        proxies={proxy.name_in(facts.node_id): proxy.status for proxy in facts.proxies},
        applications={name: app_overview(app, observed) for name, app in goal.apps.items()},
        target_capacity=goal.target_capacity,
    )


def app_overview(app: AppGoal, observed: Observed) -> ApplicationStatusOverview:
    """Return one application as `serve.status()` shows it."""
    status, message = app_status(app, observed)
    return ApplicationStatusOverview(
        status=status,
        message=message,
        last_deployed_time_s=app.deployed_at,
        deployments={d.id.name: deployment_overview(d.id, observed) for d in _shown(app, observed)},
    )


def deployment_overview(deployment: DeploymentId, observed: Observed) -> DeploymentStatusOverview:
    """Return one deployment as `serve.status()` shows it."""
    view = observed.deployments.get(deployment)
    counts = Counter(str(r.state) for r in observed.replicas_of(deployment))
    return DeploymentStatusOverview(
        status=view.status if view else DeploymentStatus.UPDATING,
        status_trigger=view.trigger if view else DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
        replica_states=dict(counts),
        message=view.message if view else "",
    )


def instance_details(
    goal: Goal,
    observed: Observed,
    facts: InstanceFacts,
    scaling: Mapping[DeploymentId, AutoscalingDetail] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what `GET /api/serve/applications/` answers: `ServeInstanceDetails` as plain data."""
    daemon = {"actor_id": f"{facts.pid}-{facts.epoch}", "worker_id": str(facts.pid)}
    controller = ServeActorDetails(**_actor(facts), **daemon, actor_name=_CONTROLLER)
    details = ServeInstanceDetails(
        controller_info=controller,
        proxy_location=facts.proxy_location,
        http_options=dict(facts.http_options),
        grpc_options=dict(facts.grpc_options),
        proxies={proxy.name_in(facts.node_id): _proxy_details(proxy, facts) for proxy in facts.proxies},
        deploy_mode=deploy_mode(goal),
        applications={name: _app_details(app, observed, facts, scaling) for name, app in goal.apps.items()},
        target_capacity=goal.target_capacity,
        target_groups=_target_groups(goal, facts),
        deployed_config=redacted(document_in_force(goal)),
        memory_limits=facts.memory_limits or msgspec.UNSET,
    )
    plain: dict[str, Any] = msgspec.to_builtins(details)
    return plain


def _proxy_details(proxy: ProxyFacts, facts: InstanceFacts) -> ProxyDetails:
    return ProxyDetails(
        **_actor(facts),
        actor_id=f"{proxy.pid}-{facts.epoch}",
        worker_id=str(proxy.pid),
        actor_name=f"{_CONTROLLER}:SERVE_PROXY_ACTOR-{proxy.name_in(facts.node_id)}",
        status=proxy.status,
    )


def revision_summary(past: AppGoal, current: int) -> RevisionSummary:
    """Return one revision of an application as its history shows it; `current` is the one that serves."""
    build = past.submission.build
    return RevisionSummary(
        revision=past.revision,
        is_current=past.revision == current,
        deployed_at_s=past.deployed_at,
        source=past.submission.source,
        import_path=build.import_path if build is not None else None,
        route_prefix=past.route_prefix,
        replicas={d.id.name: d.target for d in past.deployments},
        config=redacted(past.submission.document),
        reason=past.fallback,
    )


def document_in_force(goal: Goal) -> dict[str, Any] | None:
    """Return the document with which the declared applications that there are would be deployed as they are."""
    declared = [
        app.submission.document
        for app in goal.apps.values()
        if app.submission.document is not None and not app.is_deleting
    ]
    if goal.document is None or not declared:
        return None
    return goal.document | {"applications": declared} if "applications" in goal.document else declared[0]


def deploy_mode(goal: Goal) -> str:
    """Return Ray Serve 2.7's word for the kind of document that is in force."""
    if goal.document is None:
        return "UNSET"
    return "MULTI_APP" if "applications" in goal.document else "SINGLE_APP"


def _app_details(
    app: AppGoal,
    observed: Observed,
    facts: InstanceFacts,
    scaling: Mapping[DeploymentId, AutoscalingDetail],
) -> ApplicationDetails:
    status, message = app_status(app, observed)
    is_live = not app.is_deleting
    build = observed.built.get(app.name)
    progress = build.progress if build is not None and build.revision == app.revision else None
    is_building = app.is_building and is_live
    return ApplicationDetails(
        name=app.name,
        route_prefix=app.route_prefix if is_live else None,
        docs_path=_docs_path(app, observed),
        status=status,
        message=message,
        last_deployed_time_s=app.deployed_at,
        deployed_app_config=redacted(app.submission.document) if is_live else None,
        source=app.submission.source,
        deployments={
            d.id.name: _deployment_details(d, observed, facts, scaling.get(d.id))
            for d in _shown(app, observed)
        },
        external_scaler_enabled=takes_scaler(app.submission),
        deployment_topology=_topology(app) if app.deployments and is_live else None,
        phase=(progress.phase if progress else Phase.IMPORTING) if is_building else None,
        phase_started_s=(_shown_time(progress.since, facts) if progress else app.deployed_at)
        if is_building
        else None,
        phases=dict(progress.finished) if progress is not None else {},
    )


def _deployment_details(
    goal: DeploymentGoal, observed: Observed, facts: InstanceFacts, scaling: AutoscalingDetail | None
) -> DeploymentDetails:
    overview = deployment_overview(goal.id, observed)
    view = observed.deployments.get(goal.id)
    has_fallen_back = view is not None and view.has_fallen_back
    # As Ray shows it, with its default of one CPU, which is not set aside here.
    needs = {"CPU": 1.0} | needs_of(goal.config.ray_actor_options, goal.config.cpu_affinity).shown()
    if not goal.config.ray_actor_options.get("num_cpus", 1):
        del needs["CPU"]
    return DeploymentDetails(
        name=goal.id.name,
        status=overview.status,
        status_trigger=overview.status_trigger,
        message=overview.message,
        deployment_config=redacted(config_to_dict(goal.config, goal.id.name)),
        target_num_replicas=goal.before.target if has_fallen_back and goal.before else goal.target,
        required_resources=needs,
        replicas=[_replica_details(r, facts) for r in observed.replicas_of(goal.id)],
        recent_dead_replicas=[_replica_details(r, facts) for r in (view.dead if view else ())],
        waits_for=view.waits_for if view else "",
        waits_since_s=_shown_time(view.held_since, facts) if view and view.held_since is not None else None,
        autoscaling_detail=msgspec.UNSET if scaling is None else _with_direction(scaling, overview.status),
    )


def _with_direction(scaling: AutoscalingDetail, status: DeploymentStatus) -> AutoscalingDetail:
    is_moving = status in (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
    return msgspec.structs.replace(scaling, scaling_status=str(status) if is_moving else "STABLE")


def _replica_details(replica: ReplicaView, facts: InstanceFacts) -> ReplicaDetails:
    common = _actor(facts) | {"log_file_path": replica.log_file or None}
    return ReplicaDetails(
        **common,
        actor_id=suffix_of(replica.id),
        worker_id=None if replica.pid is None else str(replica.pid),
        actor_name=f"SERVE_REPLICA::{replica.id}",
        replica_id=suffix_of(replica.id),
        state=replica.state,
        pid=replica.pid,
        start_time_s=replica.wall_time,
        phase=replica.progress.phase,
        phase_note=replica.progress.note,
        phase_started_s=_shown_time(replica.progress.since, facts),
        phases=dict(replica.progress.finished),
        failed_in=replica.progress.failed_in,
        last_error=replica.error or str(replica.pulse) or _ejection(replica) or replica.health.error,
        allotted_resources=replica.allotment.shown(),
        gpu_ids=list(replica.allotment.gpu_ids),
        cpu_ids=list(replica.allotment.cpu_ids),
    )


def _ejection(replica: ReplicaView) -> str:
    return str(replica.calls) if replica.calls.ejected_until is not None else ""


def _shown_time(at: float, facts: InstanceFacts) -> float:
    """Return seconds since the Unix epoch for a time on the monotonic clock."""
    return round(at + facts.wall_minus_monotonic, 2)


def _topology(app: AppGoal) -> DeploymentTopology:
    ingress = app.ingress
    nodes = {
        d.id.name: TopologyNode(
            name=d.id.name,
            app_name=app.name,
            outbound_deployments=[DeploymentNode(name=n, app_name=app.name) for n in d.spec.calls],
            is_ingress=d is ingress,
        )
        for d in app.deployments
    }
    return DeploymentTopology(
        app_name=app.name, nodes=nodes, ingress_deployment=ingress.id.name if ingress else None
    )


def _target_groups(goal: Goal, facts: InstanceFacts) -> list[TargetGroup]:
    """Return where an outer balancer would send requests: to this one proxy.

    A gRPC request names its application itself, so those without a prefix can be reached by it too.
    """
    if facts.proxy_location == "Disabled":
        return []
    host, http_port = facts.http_options.get("host"), facts.http_options.get("port")
    grpc_port = facts.grpc_options.get("port") if facts.grpc_options.get("grpc_servicer_functions") else None
    return [
        TargetGroup(
            targets=[Target(ip=host, port=port, instance_id=facts.node_id)],
            route_prefix=app.route_prefix or "/",
            protocol=protocol,
            app_name=app.name,
            ingress_deployment_name=app.ingress.id.name if app.ingress else None,
        )
        for protocol, port in (("HTTP", http_port), ("gRPC", grpc_port))
        for app in goal.apps.values()
        if port and not app.is_deleting and (app.route_prefix is not None or protocol == "gRPC")
    ]


def _actor(facts: InstanceFacts) -> dict[str, Any]:
    """Return the fields that everything that runs has in Ray Serve's answers."""
    return {
        "node_id": facts.node_id,
        "node_ip": "127.0.0.1",
        "node_instance_id": facts.node_id,
        "log_file_path": facts.log_file,
    }


def _docs_path(app: AppGoal, observed: Observed) -> str | None:
    ingress = app.ingress
    if ingress is None or app.is_deleting:
        return None
    told: Mapping[ReplicaId, str] = {
        r.id: r.docs_path for r in observed.replicas_of(ingress.id) if r.docs_path is not None
    }
    return next(iter(told.values()), ingress.spec.docs_path)


def _shown(app: AppGoal, observed: Observed) -> list[DeploymentGoal]:
    """Return the application's deployments; while it is deleted, those that still have replicas."""
    if not app.is_deleting:
        return list(app.deployments)
    alive = {r.deployment for r in observed.replicas.values()}
    return [d for d in (*app.deployments, *app.retired) if d.id in alive]


def redacted(value: Any) -> Any:
    """Return a copy of a document without the values of environment variables, and passwords in URLs."""
    if isinstance(value, dict):
        return {k: _redacted_entry(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(v) for v in value]
    return value


def _redacted_entry(key: str, value: Any) -> Any:
    if key == "env_vars":
        return _hidden(value)
    if key == "ssl_keyfile_password" and value:
        return REDACTED
    return _environment_shown(value) if key == "runtime_env" else redacted(value)


def _environment_shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _hidden(v) if k == "env_vars" else _environment_shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_environment_shown(v) for v in value]
    return without_credentials(value) if isinstance(value, str) else value


def _hidden(variables: Any) -> Any:
    return dict.fromkeys(variables, REDACTED) if isinstance(variables, dict) else variables
