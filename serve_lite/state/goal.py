"""What the user asked for: applications, their deployments, and where user code comes from.

Frozen values that are stored, compared and sent between processes. Payloads of user code are
opaque bytes here: only importers, replicas and drivers look inside them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

from serve_lite.config import AutoscalingPolicy, DeploymentConfig
from serve_lite.state.environment import Part, RuntimeEnv
from serve_lite.state.ids import DeploymentId

Source = Literal["imperative", "declarative"]
CapacityDirection = Literal["UP", "DOWN"] | None  #: where the last change of `target_capacity` went


class CodeEnvironment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and how user code is run. Two equal values may share one template process."""

    cwd: str = ""  #: working directory; "" keeps the daemon's
    sys_path: tuple[str, ...] = ()  #: put in front of the interpreter's own `sys.path`, in this order
    env_vars: dict[str, str] = {}  #: set before user code is imported
    python: str = ""  #: interpreter executable; "" is the daemon's own
    package_folders: tuple[str, ...] = ()  #: folders of packages, put behind that interpreter's own
    parts: tuple[Part, ...] = ()  #: to be prepared first (controller/environments.py), which gives the above


class DeploymentSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One deployment as an importer or a driver built it. Data only."""

    name: str
    config: DeploymentConfig  #: effective options as configured in code
    configured_options: tuple[str, ...] = ()  #: names of the options the user gave in code
    code: bytes  #: opaque: how a replica gets the class or function (replica/loading.py)
    init: bytes  #: opaque: pickled `(args, kwargs)` of the constructor; handles inside
    is_ingress: bool = False
    is_asgi: bool = False  #: the class carries `@serve.ingress`
    docs_path: str | None = None
    calls: tuple[str, ...] = ()  #: deployments of the same application it holds handles to
    added_path: tuple[str, ...] = ()  #: what the application's module put on `sys.path` itself
    runtime_env: RuntimeEnv | None = None  #: its own, as its code says; None: older, see `config`
    version: str = ""  #: a digest of what its files and arguments hold, if its app is built so


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask an importer to build one application."""

    app_name: str
    import_path: str  #: `module:attribute` or `module.attribute`
    args: dict[str, Any] = {}  #: for an application builder function
    by_content: bool = False  #: each deployment is told by what is in its files


class BuildResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an importer answers: the deployments, ingress last."""

    deployments: tuple[DeploymentSpec, ...]


class AppSubmission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One application as it is handed to the controller.

    Exactly one of `build` (an importer makes the deployments) and `deployments` (a driver made
    them already) is set.
    """

    name: str = "default"
    route_prefix: str | None = "/"
    source: Source = "imperative"
    environment: CodeEnvironment = CodeEnvironment()
    runtime_env: RuntimeEnv = RuntimeEnv()  #: what `environment` was made of, for deployments to add to
    own_runtime_envs: dict[str, RuntimeEnv] = {}  #: by deployment, of `overrides` that have one
    build: BuildRequest | None = None
    deployments: tuple[DeploymentSpec, ...] = ()
    overrides: tuple[dict[str, Any], ...] = ()  #: the `deployments:` list of a config file, validated
    document: dict[str, Any] | None = None  #: the app's part of the config file exactly as submitted
    code_version: str = ""  #: equal to the running one: no new build, no restart; "" is always new
    is_reread: bool = False  #: it is built in any case: files may hold something else under the same names
    logging_config: dict[str, Any] | None = None  #: of deployments that have none of their own
    autoscaling_policy: AutoscalingPolicy | None = (
        None  #: decides for all deployments that scale by themselves
    )
    external_scaler_enabled: bool = False  #: others than its user may set numbers of replicas
    rollback_on_failure: bool = False  #: given up, it makes way for the last revision that worked
    require_api_key: bool | None = None  #: of HTTP and gRPC clients; None: as the instance's options say
    rate_limit: str | None = None  #: of requests from outside, as `rates.parse_rate` takes it
    client_rate_limit: str | None = None  #: of those of each client


def takes_scaler(submission: AppSubmission) -> bool:
    """Whether scalers outside may set the numbers of replicas of an application."""
    document = submission.document or {}  # all that an older release wrote down
    return submission.external_scaler_enabled or bool(document.get("external_scaler_enabled", False))


class DeploymentGoal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One deployment as it should run."""

    id: DeploymentId
    spec: DeploymentSpec  #: as it was built; overrides are applied to its options afresh on each deploy
    config: DeploymentConfig  #: effective options
    version: str  #: replicas of another version are replaced (policy/update.py)
    settings: str  #: replicas with other settings are reconfigured in place
    target: int  #: replicas wanted
    environment: CodeEnvironment = CodeEnvironment()
    route_prefix: str | None = None  #: of its application; None for deployments that are no ingress
    claim: int = 0  #: lower ones get resources first (policy/claims.py)
    is_proven: bool = False  #: it ran as it should at some time
    before: DeploymentGoal | None = (
        None  #: the last one that did; serves if this one fails (policy/standby.py)
    )

    def without_payload(self) -> DeploymentGoal:
        """Return the deployment with neither code nor constructor arguments, and without the one before."""
        spec = msgspec.structs.replace(self.spec, code=b"", init=b"")
        return msgspec.structs.replace(self, spec=spec, before=None)


class AppGoal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One application as it should be.

    `submission` is the newest thing the user handed in; `deployments` and `route_prefix` are what
    should run now. They differ while the submission is being built, and after its build failed.
    """

    name: str
    revision: int  #: of the submission
    submission: AppSubmission  #: without its payloads
    deployed_at: float  #: wall clock, to show
    deployments: tuple[DeploymentGoal, ...] = ()
    retired: tuple[DeploymentGoal, ...] = ()  #: left out by the newest version; stop when it is in place
    route_prefix: str | None = None
    code_version: str = ""  #: of what `deployments` were built from
    autoscaling_policy: AutoscalingPolicy | None = (
        None  #: of `deployments`; the submission's once that is built
    )
    is_building: bool = False
    build_error: str = ""  #: why the newest submission was not built
    is_deleting: bool = False
    proven: int = 0  #: the newest revision that ran as it should; 0: none did
    is_going_back: bool = False  #: an earlier revision was taken back; callers are updated before callees
    fallback: str = ""  #: it came back by itself: instead of which revision, and why (state/rollback.py)

    def without_payloads(self) -> AppGoal:
        """Return the application with neither code nor constructor arguments."""
        return msgspec.structs.replace(
            self,
            deployments=tuple(d.without_payload() for d in self.deployments),
            retired=tuple(d.without_payload() for d in self.retired),
        )

    @property
    def ingress(self) -> DeploymentGoal | None:
        """The deployment that answers HTTP: the marked one, else the last."""
        marked = [d for d in self.deployments if d.spec.is_ingress]
        candidates = marked or list(self.deployments)
        return candidates[-1] if candidates else None


class Goal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything the user asked of this instance."""

    revision: int = 0
    apps: dict[str, AppGoal] = {}
    document: dict[str, Any] | None = None  #: the last configuration document, as submitted
    target_capacity: float | None = None  #: percent
    capacity_direction: CapacityDirection = None
    is_shutting_down: bool = False

    def outline(self, names: Collection[str]) -> Goal:
        """Return what is wanted of some applications, without the payloads, which only replicas can read."""
        apps = {name: app.without_payloads() for name, app in self.apps.items() if name in names}
        return msgspec.structs.replace(self, apps=apps, document=None)

    def capacity_of(self, source: Source) -> tuple[float | None, CapacityDirection]:
        """Return the percentage that holds for applications from this source, and where it goes."""
        if source == "imperative":
            return None, None
        return self.target_capacity, self.capacity_direction
