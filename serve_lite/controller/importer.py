"""What takes user code without running it here: an importer child imports it and answers with data."""

from __future__ import annotations

from serve_lite.controller.asking import ChildDiedError, ask_child
from serve_lite.controller.environments import Environments
from serve_lite.controller.spawner import Spawner
from serve_lite.exceptions import InstanceError, RayServeException
from serve_lite.state.goal import BuildRequest, BuildResult, CodeEnvironment
from serve_lite.wire.spawning import (
    BuildFailure,
    BuildReply,
    GrpcServices,
    ServicersReply,
    ServicersRequest,
)


class BuildError(RayServeException):
    """An application could not be built; the message is for its author."""

    def __init__(self, type_name: str, text: str, traceback: str = "", where: str = "") -> None:
        super().__init__(type_name, text, traceback, where)
        self.type_name = type_name  #: class of the user's exception; "" where the text says it all
        self.text = text
        self.traceback = traceback  #: the user's frames only
        self.where = where  #: `file:line`, "" if no user code ran

    def __str__(self) -> str:
        at = f" (at {self.where})" if self.where else ""
        return f"{self.exception}{at}"

    @property
    def exception(self) -> str:
        """Class and text, as the last line of a traceback has them."""
        return f"{self.type_name}: {self.text}" if self.type_name else self.text


class Importer:
    """Builds applications and reads gRPC services, each time in a child of its own."""

    def __init__(self, spawner: Spawner, environments: Environments) -> None:
        self._spawner, self._environments = spawner, environments

    async def build(self, request: BuildRequest, environment: CodeEnvironment) -> BuildResult:
        """Return the deployments of an application.

        Prepares the environment first. Has no deadline: an import may take as long as it takes. On cancel the child
        is killed.

        Raises:
            RuntimeEnvError: its environment cannot be prepared.
            BuildError: there is no such application, its code raised, or the importer died.
            InstanceError: no process could be started.
        """
        resolved = await self._environments.resolve(environment)
        log_path = self._spawner.log_path("importer", request.app_name)
        try:
            reply = await ask_child(
                lambda work: self._spawner.spawn_importer(request.app_name, resolved, work, log_path),
                request,
                BuildReply,
                "the process that imported the application",
            )
        except ChildDiedError as error:
            raise BuildError("ImporterDied", str(error)) from error
        if reply.failure is not None:
            raise _build_error(reply.failure)
        if reply.result is None:
            raise BuildError("ImporterError", "the importer answered with neither a result nor a failure")
        return reply.result

    async def read_servicers(self, paths: tuple[str, ...], environment: CodeEnvironment) -> GrpcServices:
        """Return what gRPC servicer functions offer. No deadline; on cancel the child is killed.

        Raises:
            InstanceError: one of them cannot be imported or is none.
        """
        log_path = self._spawner.log_path("importer", "grpc")
        try:
            reply = await ask_child(
                lambda work: self._spawner.spawn_servicers(environment, work, log_path),
                ServicersRequest(paths=paths),
                ServicersReply,
                "the process that imported the gRPC servicer functions",
            )
        except ChildDiedError as error:
            raise InstanceError(f"ImporterDied: {error}") from error
        if reply.failure is not None or reply.services is None:
            why = _build_error(reply.failure) if reply.failure is not None else "nothing was answered"
            raise InstanceError(f"gRPC cannot be served: {why}")
        return reply.services


def _build_error(failure: BuildFailure) -> BuildError:
    return BuildError(failure.type_name, failure.text, failure.traceback, failure.where)
