"""Testing applications: fixtures for pytest, and the same as a context manager for everybody else.

`serve_app` and `running` deploy either to a real instance that belongs to the test process alone, with a home
of its own and ports that the kernel chooses, or, with `local=True`, inside the process itself. The instance is
started when first needed and serves all tests; what a test has deployed is removed when it ends. An instance
that the developer runs is neither used nor touched.

pytest loads this module in every run of every project where serve_lite is installed. So nothing is imported
here, neither serve_lite's own parts nor httpx, before a test uses it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

try:
    import pytest
except ModuleNotFoundError:  # `running` works without it
    pytest = None  # type: ignore[assignment]  # looked at before it is used

if TYPE_CHECKING:
    import httpx

    from serve_lite.deployment import Application
    from serve_lite.handle import DeploymentHandle
    from serve_lite.routing.runtime import Runtime

__all__ = ["Instance", "Running", "running"]

_CLIENT_TIMEOUT_S = 30.0  #: of the HTTP clients; a model may take a while


class Instance:
    """The instance that tests of this process share: where it is and what it says.

    Lifetime: made when first needed; ends with the pytest session, else with the process.
    """

    def __init__(self, home: str, http_address: str, admin_address: str) -> None:
        self.home = home  #: its state directory, removed with it
        self.http_address = http_address  #: for example "http://127.0.0.1:40123"
        self.admin_address = admin_address  #: of the REST API, likewise

    def logs(self, name: str = "") -> str:
        """Return what the log files hold whose name contains `name`, for example a deployment's; all by default."""
        folder = os.path.join(self.home, "logs")
        found = sorted(
            os.path.join(path, file) for path, _, files in os.walk(folder) for file in files if name in file
        )
        return "".join(f"==> {path} <==\n{_read(path)}\n" for path in found)


class Deploy(Protocol):
    """What the fixture `serve_app` gives."""

    def __call__(
        self,
        app: Application | Callable[..., Any] | str,
        name: str = "default",
        route_prefix: str | None | EllipsisType = ...,
        *,
        local: bool = False,
        args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> DeploymentHandle:
        """Deploy an application, wait until it runs, and return a handle to its ingress.

        Args:
            app: what `bind` returned, a function that builds such a thing, or an import path to either.
            name: the application's name.
            route_prefix: where HTTP finds it; as for `serve.run` if not given.
            local: run it inside the test's process, without an instance.
            args: for a function that builds the application.
            options: further options of `serve.run`.

        Raises:
            RuntimeError: it could not be deployed; the message ends with the user's exception.
            Exception: with `local`, whatever the user's constructor raises, as it is.
        """
        ...


class Running:
    """An application that runs, as `running` gives it."""

    def __init__(self, handle: DeploymentHandle, stage: _Stage) -> None:
        self.handle = handle
        self._stage = stage
        self._client: httpx.Client | None = None

    @property
    def http_address(self) -> str:
        """Where HTTP reaches it, without its route prefix, for example "http://127.0.0.1:40123"."""
        return self._stage.http_address()

    @property
    def client(self) -> httpx.Client:
        """An HTTP client whose relative URLs go to `http_address`; closed with the application."""
        if self._client is None:
            self._client = self._stage.client()
        return self._client

    @property
    def async_client(self) -> httpx.AsyncClient:
        """The same for async code. It keeps no connection open, so it needs no closing and works on any loop."""
        return self._stage.async_client()

    @property
    def instance(self) -> Instance:
        """The instance that it runs on; one is started if it runs inside this process."""
        return self._stage.instance()

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()


@contextlib.contextmanager
def running(
    app: Application | Callable[..., Any] | str,
    name: str = "default",
    route_prefix: str | None | EllipsisType = ...,
    *,
    local: bool = False,
    args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """Deploy an application for the time of a `with` block and give its handle and HTTP clients.

    Takes and raises what the fixture `serve_app` does, see `Deploy`. Blocks may be nested, with applications of
    different names.
    """
    with _on_stage() as stage:
        found = Running(stage.deploy(app, name, route_prefix, local=local, args=args, **options), stage)
        try:
            yield found
        finally:
            found._close()
            stage.delete(name)


# --- the instance of this process ----------------------------------------------------------------


class _Shared:
    """The one instance that tests of this process use, started when first asked for."""

    def __init__(self) -> None:
        self._instance: Instance | None = None
        self._runtime: Runtime | None = None
        self._pid = os.getpid()
        self._keeper_pid = 0
        self._ends_at_exit = False

    def get(self) -> tuple[Instance, Runtime]:
        """Return it and a runtime connected to it; a new one if the last has ended."""
        if self._instance is not None and not self._is_as_started():
            self.close()  # a test called `serve.shutdown()`, or something worse happened
        if self._instance is None or self._runtime is None:
            self._start()
        assert self._instance is not None and self._runtime is not None
        return self._instance, self._runtime

    def close(self) -> None:
        """End the instance and remove its directory."""
        from serve_lite.engines import local  # lazily, see the top
        from serve_lite.exceptions import InstanceError

        instance, self._instance = self._instance, None
        runtime, self._runtime = self._runtime, None
        if instance is None or self._pid != os.getpid():
            return
        if runtime is not None:
            runtime.stop()
        try:
            local.run_aside(_shut_down(instance.home))
        except InstanceError:  # it has ended by itself, or was killed
            pass
        finally:
            shutil.rmtree(instance.home, ignore_errors=True)

    def _start(self) -> None:
        from serve_lite.daemon.machine_options import machine_from_environment  # lazily, see the top
        from serve_lite.daemon.options import InstanceOptions, paths
        from serve_lite.engines import local
        from serve_lite.routing import runtime

        self._pid = os.getpid()
        home = tempfile.mkdtemp(prefix="serve-lite-tests-")
        try:
            info = local.start_instance(
                InstanceOptions(home=home, http_port=0, admin_port=0, machine=machine_from_environment()),
                owner_pid=os.getpid(),
            )
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        self._keeper_pid = info.keeper_pid
        self._instance = Instance(
            home,
            f"http://{info.http_host}:{info.http_port}",
            f"http://{info.admin_host}:{info.admin_port}",
        )
        self._runtime = runtime.open_in_background(paths(home).control)
        if not self._ends_at_exit:
            self._ends_at_exit = True
            atexit.register(self.close)

    def _is_as_started(self) -> bool:
        from serve_lite.engines import local  # lazily, see the top
        from serve_lite.exceptions import InstanceError

        assert self._instance is not None and self._runtime is not None
        try:
            info = local.find_instance(self._instance.home)
        except InstanceError:  # it is ending
            return False
        return info is not None and info.keeper_pid == self._keeper_pid and self._runtime.loop.is_running()


_shared = _Shared()


async def _shut_down(home: str) -> None:
    from serve_lite.engines import local  # lazily, see the top

    connection = await local.connect_instance(home)
    if connection is not None:
        await local.shutdown_instance(connection)


# --- one test ------------------------------------------------------------------------------------


class _Stage:
    """What one test, or one `with running(...)`, deploys and asks.

    Lifetime: `_on_stage` makes it; what it has changed about the process is undone then.
    """

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self._undo = undo
        self._instance: Instance | None = None  #: the one chosen for this process
        self._address: Callable[[], str] | None = None  #: of where the application deployed last is

    def deploy(
        self,
        app: Application | Callable[..., Any] | str,
        name: str = "default",
        route_prefix: str | None | EllipsisType = ...,
        *,
        local: bool = False,
        args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> DeploymentHandle:
        """See `Deploy`."""
        __tracebackhide__ = True  # a failure of the user's code is shown at the user's call
        from serve_lite import api  # lazily, see the top
        from serve_lite.engines import inline

        local = local or inline.is_forced()
        target = _application(app, name, dict(args or {}))
        if route_prefix is not ...:
            options["route_prefix"] = route_prefix
        if not local:
            self.instance()
        self._address = _local_address if local else self._instance_address
        try:
            return api.run(target, name=name, _local_testing_mode=local, **options)
        except BaseException as error:
            error.__traceback__ = _users_part(error.__traceback__)
            raise

    def instance(self) -> Instance:
        """Return the shared instance, which from now on is the one that `serve.run` and the others use."""
        instance, runtime = _shared.get()
        if self._instance is not instance:
            self._instance = instance
            self._undo.enter_context(_chosen(instance, runtime))
        return instance

    def http_address(self) -> str:
        """Return where the application deployed last is reached."""
        if self._address is None:
            from serve_lite.engines import inline  # lazily, see the top

            return _local_address() if inline.has_any() else self._instance_address()
        return self._address()

    def client(self) -> httpx.Client:
        """Return a client for `http_address`, wherever that is by the time of a request."""
        return _clients(self.http_address)[0]()

    def async_client(self) -> httpx.AsyncClient:
        return _clients(self.http_address)[1]()

    def delete(self, name: str) -> None:
        """Remove one application; nothing if the test has removed it itself."""
        from serve_lite import api  # lazily, see the top
        from serve_lite.engines import inline

        if not inline.delete(name) and self._instance is not None and api.status().applications.get(name):
            api.delete(name)

    def clear(self) -> None:
        """Remove every application there is, whoever deployed it."""
        from serve_lite import api  # lazily, see the top
        from serve_lite.engines import inline
        from serve_lite.exceptions import InstanceError

        inline.end()
        if self._instance is None:
            return
        try:
            for name in api.status().applications:
                api.delete(name)
        except InstanceError:  # the test has killed the instance; the next one gets another
            _shared.close()
        except BaseException:  # likewise, but this is trouble that must be told
            _shared.close()
            raise

    def _instance_address(self) -> str:
        return self.instance().http_address


@contextlib.contextmanager
def _on_stage() -> Iterator[_Stage]:
    with contextlib.ExitStack() as undo:
        yield _Stage(undo)


@contextlib.contextmanager
def _chosen(instance: Instance, runtime: Runtime) -> Iterator[None]:
    """Make this instance the one that this process and its children use."""
    from serve_lite.routing import runtime as caller_runtime  # lazily, see the top

    chosen = {"SERVE_LITE_HOME": instance.home, "SERVE_LITE_HTTP_PORT": "0", "SERVE_LITE_ADMIN_PORT": "0"}
    variables = {name: os.environ.get(name) for name in chosen}
    before = caller_runtime.installed()
    os.environ.update(chosen)
    caller_runtime.install(runtime)
    try:
        yield
    finally:
        caller_runtime.install(before)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _application(app: Application | Callable[..., Any] | str, name: str, args: dict[str, Any]) -> Application:
    from serve_lite.graph import call_builder  # lazily, see the top

    if not isinstance(app, str):
        return call_builder(app, args)
    from serve_lite.replica.importing import as_application, import_target
    from serve_lite.state.goal import BuildRequest

    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `serve run` does: pytest itself may know the tests' folder only
    return as_application(import_target(app), BuildRequest(app_name=name, import_path=app, args=args))


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame of the user's code on; the whole if there is none in it."""
    ours = (os.path.dirname(__file__) + os.sep, os.path.dirname(os.__file__) + os.sep)
    rest = trace
    while rest is not None:
        file = rest.tb_frame.f_code.co_filename
        if os.path.isabs(file) and (not file.startswith(ours) or "site-packages" in file):
            return rest
        rest = rest.tb_next
    return trace


def _local_address() -> str:
    from serve_lite.engines import inline  # lazily, see the top

    host, port = inline.http_address()
    return f"http://{host}:{port}"


def _clients(
    address: Callable[[], str],
) -> tuple[Callable[[], httpx.Client], Callable[[], httpx.AsyncClient]]:
    """Return makers of clients that ask for the address at each request: a test may deploy after it has a client."""
    import httpx  # lazily, see the top

    class Client(httpx.Client):
        @property  # type: ignore[misc]  # httpx's can be set
        def base_url(self) -> httpx.URL:
            return httpx.URL(address() + "/")

    class AsyncClient(httpx.AsyncClient):
        @property  # type: ignore[misc]  # httpx's can be set
        def base_url(self) -> httpx.URL:
            return httpx.URL(address() + "/")

    # Idle connections of an async client would belong to a loop that is closed before the fixture is.
    no_idle = httpx.Limits(max_keepalive_connections=0)
    return (
        lambda: Client(timeout=_CLIENT_TIMEOUT_S, trust_env=False),
        lambda: AsyncClient(timeout=_CLIENT_TIMEOUT_S, trust_env=False, limits=no_idle),
    )


def _read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


# --- fixtures ------------------------------------------------------------------------------------

if pytest is not None:

    @pytest.fixture(scope="session")
    def _serve_lite_session() -> Iterator[None]:
        """Ends the instance after the last test that used one."""
        yield
        _shared.close()

    @pytest.fixture
    def _serve_lite_stage(_serve_lite_session: None) -> Iterator[_Stage]:
        """What one test deploys; everything is removed after the test."""
        with _on_stage() as stage:
            try:
                yield stage
            finally:
                stage.clear()

    @pytest.fixture
    def serve_app(_serve_lite_stage: _Stage) -> Deploy:
        """A function that deploys an application for this test and returns a handle to it.

        serve_app(app_or_import_path, name="default", route_prefix="/", local=False, args=None, ...)
        """
        return _serve_lite_stage.deploy

    @pytest.fixture
    def serve_client(_serve_lite_stage: _Stage) -> Iterator[httpx.Client]:
        """An httpx.Client whose base_url is where the application deployed last is reached."""
        with _serve_lite_stage.client() as client:
            yield client

    @pytest.fixture
    def serve_async_client(_serve_lite_stage: _Stage) -> httpx.AsyncClient:
        """An httpx.AsyncClient like serve_client; works with every async plugin and needs no closing."""
        return _serve_lite_stage.async_client()

    @pytest.fixture
    def serve_instance(_serve_lite_stage: _Stage) -> Instance:
        """The real instance of this test run: http_address, admin_address, home, logs()."""
        return _serve_lite_stage.instance()
