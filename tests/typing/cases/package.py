"""The package as a namespace: its names and modules are known, and no others are."""

from typing import reveal_type

import serve_lite
import serve_lite as serve


def names() -> None:
    reveal_type(serve.get_multiplexed_model_id())  #: str
    reveal_type(serve.get_replica_context().app_name)  #: str
    reveal_type(serve_lite.config.AutoscalingConfig(max_replicas=3).max_replicas)  #: int
    reveal_type(serve.handle.DeploymentHandle("a"))  #: DeploymentHandle[Any]
    reveal_type(serve.status().applications["a"].status)  #: ApplicationStatus
    print(serve.metrics.Counter, serve.exceptions.RayServeException, serve.schema.ServeStatus)
    print(serve.deplyment)  #! mypy attr-defined; plugin attr-defined; pyright reportAttributeAccessIssue
