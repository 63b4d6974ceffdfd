"""An HTTP/2 client that keeps to the protocol when it is asked to leave, as curl, browsers and gRPC do.

After a GOAWAY it waits for the streams that are open, opens no other one, and goes to a new connection (RFC 9113, 6.8).
"""

from __future__ import annotations

import asyncio

from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

_HEAD_BYTES = 9
_GOAWAY = 7


class PoliteClient:
    """Requests on one connection at a time.

    Lifetime: `close` ends the connection and its task.
    """

    def __init__(self, host: str, port: int) -> None:
        self.connections = 0  #: that were made
        self._host, self._port = host, port
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def get(self, path: str) -> bytes:
        """Return the body of an answer with status 200. Raises ConnectionError for anything else."""
        async with self._connecting:
            if self._connection is None or self._connection.is_left:
                reader, writer = await asyncio.open_connection(self._host, self._port)
                self._connection = _Connection(reader, writer)
                self.connections += 1
            answer = self._connection.ask(path, f"{self._host}:{self._port}")
        return await answer

    async def close(self) -> None:
        """End the present connection."""
        if self._connection is not None:
            await self._connection.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_left = False  #: no stream may be opened any more
        self._reader, self._writer = reader, writer
        self._h2 = H2Connection()
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.ENABLE_PUSH: 0})
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._bodies: dict[int, bytes] = {}
        self._task = asyncio.create_task(self._read())

    def ask(self, path: str, host: str) -> asyncio.Future[bytes]:
        stream = self._h2.get_next_available_stream_id()
        pseudo = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", host)]
        self._h2.send_headers(stream, pseudo, end_stream=True)
        self._bodies[stream] = b""
        answer = self._answers[stream] = asyncio.get_running_loop().create_future()
        self._flush()
        return answer

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        buffer = b""
        try:
            while not (self.is_left and not self._answers):
                data = await self._reader.read(65536)
                if not data:
                    break
                buffer += data
                while len(buffer) >= _HEAD_BYTES:
                    end = _HEAD_BYTES + int.from_bytes(buffer[:3], "big")
                    if len(buffer) < end:
                        break
                    frame, buffer = buffer[:end], buffer[end:]
                    self._take(frame)
        finally:
            self.is_left = True
            self._writer.close()
            for answer in self._answers.values():
                answer.set_exception(ConnectionError("the connection ended before the answer"))

    def _take(self, frame: bytes) -> None:
        if frame[3] == _GOAWAY:  # the library would take nothing after it
            self.is_left = True
            return
        for event in self._h2.receive_data(frame):
            if isinstance(event, ResponseReceived) and (b":status", b"200") not in event.headers:
                self._answers.pop(event.stream_id).set_exception(ConnectionError(f"answered {event.headers}"))
            elif isinstance(event, DataReceived):
                self._bodies[event.stream_id] += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamReset):
                self._answers.pop(event.stream_id).set_exception(ConnectionError("the stream was reset"))
            elif isinstance(event, StreamEnded) and event.stream_id in self._answers:
                self._answers.pop(event.stream_id).set_result(self._bodies.pop(event.stream_id))
        self._flush()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
