"""An application whose ingress answers every kind of gRPC call. Imported by replicas, beside the generated modules."""

import asyncio
import os
import time
from pathlib import Path

import grpc
import serve_lite_echo_pb2 as pb
from google.rpc.status_pb2 import Status

import serve_lite as serve
from serve_lite.context import _serve_request_context
from serve_lite.exceptions import BackPressureError
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Waiter:
    """Holds a request until it is cancelled; notes both in files."""

    async def __call__(self, folder: str) -> None:
        Path(folder, "child-entered").touch()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Path(folder, "child-cancelled").touch()
            raise


@serve.deployment
class Echo:
    def __init__(self, waiter: DeploymentHandle | None = None) -> None:
        self._waiter = waiter
        self._inside = self._most = 0

    async def Say(self, said):
        return pb.Said(text=said.text, data=said.data)

    async def Repeat(self, said):
        for count in range(said.count):
            yield pb.Said(text=said.text, count=count, data=said.data)

    async def Gather(self, stream):
        assert not stream.is_exhausted and not stream.is_cancelled()
        texts, size = [], 0
        async for said in stream:
            texts.append(said.text)
            size += len(said.data)
        assert stream.is_exhausted
        return pb.Said(text=",".join(texts[:10]), count=len(texts), data=str(size).encode())

    async def Converse(self, stream):
        async for said in stream:
            yield pb.Said(text=said.text.upper())
            if said.text == "enough":
                stream.cancel()

    def SaySync(self, said):
        return pb.Said(text=said.text)

    def RepeatSync(self, said):
        for count in range(said.count):
            yield pb.Said(count=count)

    async def Context(self, said, grpc_context):
        assert _serve_request_context.get().grpc_context is grpc_context
        grpc_context.set_trailing_metadata([("said", said.text), ("raw-bin", b"\x00\xff")])
        if said.text == "names":
            return pb.Said(text=repr(grpc_context.invocation_metadata()))
        if said.count:
            grpc_context.set_compression(said.count)
        told = {
            "application": grpc_context.application(),
            "peer": grpc_context.peer().partition(":")[0],
            "request_id": grpc_context.request_id(),
            "traceparent": grpc_context.traceparent(),
            "tracestate": grpc_context.tracestate(),
            "model": grpc_context.multiplexed_model_id(),
            "session": _serve_request_context.get().session_id,
            "mine": dict(grpc_context.invocation_metadata()).get("mine"),
            "raw": dict(grpc_context.invocation_metadata()).get("mine-bin"),
        }
        return pb.Said(text=repr(told), data=said.data)

    async def Fail(self, said, grpc_context):
        if said.text == "code":
            grpc_context.set_code(said.count)
            grpc_context.set_details("as set")
        if said.text == "code without details":
            grpc_context.set_code(said.count)
        if said.text == "no exception":
            grpc_context.set_code(said.count)
            return pb.Said(text="not seen")
        if said.text == "back pressure":
            raise BackPressureError(3, 2)
        if said.text == "long":
            raise ValueError("x" * 10_000)
        raise ValueError("broken by itself")

    async def Hold(self, said):
        """Wait until a file `go` appears in the folder `text`, and before that for a child of this call, if any.

        Answers how many calls were in here at once at most.
        """
        self._inside += 1
        self._most = max(self._most, self._inside)
        folder = Path(said.text)
        (folder / f"entered-{said.count}").touch()
        if self._waiter is not None:
            await self._waiter.remote(said.text)
        while not (folder / "go").exists():
            await asyncio.sleep(0.01)
        self._inside -= 1
        return pb.Said(text="held", count=self._most)

    async def HoldStream(self, said):
        yield pb.Said(text="first")
        folder = Path(said.text)
        try:
            while not (folder / "go").exists():
                await asyncio.sleep(0.01)
        finally:
            (folder / "stream-ended").touch()
        yield pb.Said(text="last")

    async def Ignore(self, stream):
        """Read the first message, and the others when there is a file `go` in the folder it names."""
        first = await stream.__anext__()
        while not Path(first.text, "go").exists():
            await asyncio.sleep(0.01)
        return pb.Said(count=sum([1 async for _ in stream]))

    async def Flood(self, said):
        """Yield without end; note how many in a file `count` of the folder `text`."""
        for count in range(1_000_000):
            Path(said.text, "count").write_text(str(count))
            yield pb.Said(count=count, data=said.data)

    async def Details(self, said, grpc_context):
        status = Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="not ready")
        status.details.add().Pack(pb.Said(text="why"))
        grpc_context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        grpc_context.set_details(status.message)
        grpc_context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        raise ValueError(said.text)

    async def Initial(self, said, grpc_context):
        grpc_context.set_initial_metadata([("first", said.text), ("raw-bin", b"\x00\xff")])
        if said.text == "fail":
            raise ValueError("after all")
        for count in range(said.count):
            yield pb.Said(count=count)

    async def Packed(self, said, grpc_context):
        """Yield messages, packed as `text` says: a letter for each, g, d or n."""
        for letter in said.text:
            grpc_context.set_compression("ndg".index(letter))
            yield pb.Said(data=said.data)

    async def Who(self, said, grpc_context):
        told = grpc_context.auth_context(), grpc_context.peer_identities(), grpc_context.peer_identity_key()
        return pb.Said(text=repr(told))

    async def FailWith(self, said):
        raise ValueError(said.text)

    async def Grow(self, said):
        return pb.Said(data=bytes(said.count))

    async def GrowStream(self, said):
        yield pb.Said(data=b"x")
        yield pb.Said(data=bytes(said.count))
        yield pb.Said(data=b"never")

    async def TimeLeft(self, said):
        deadline = _serve_request_context.get().deadline
        return pb.Said(text=str(deadline - time.monotonic() if deadline else None))

    async def Listen(self, stream):
        folder = ""
        try:
            async for said in stream:
                folder = said.text
                Path(folder, "listening").touch()
        except asyncio.CancelledError:
            Path(folder, "gone").touch()
            raise
        return pb.Said()

    async def NotAMessage(self, said):
        return "text"

    @serve.multiplexed(max_num_models_per_replica=1)
    async def load(self, model_id: str) -> str:
        return f"{model_id} in {os.getpid()} since {time.monotonic_ns()}"

    async def Model(self, said):
        return pb.Said(text=await self.load(serve.get_multiplexed_model_id()))

    async def Pid(self, said):
        return pb.Said(count=os.getpid())


app = Echo.bind()
parent = Echo.bind(Waiter.bind())
narrow = Echo.options(max_ongoing_requests=1, max_queued_requests=1).bind()
one_at_a_time = Echo.options(max_ongoing_requests=1).bind()
wide = Echo.options(max_ongoing_requests=1000).bind()
two = Echo.options(num_replicas=2).bind()
