"""A replica that stops finishes its requests first; then its destructor runs, which may be `async`."""

import asyncio
import tempfile
import threading
from pathlib import Path

import serve_lite as serve


@serve.deployment(graceful_shutdown_timeout_s=20)
class Workshop:
    def __init__(self, diary: str) -> None:
        self.diary = Path(diary)
        self.started = asyncio.Event()

    async def repair(self, thing: str) -> str:
        self.started.set()
        while self.diary.read_text() != "closing time":
            await asyncio.sleep(0.01)
        return f"{thing} repaired"

    async def has_started(self) -> bool:
        return await self.started.wait()

    async def __del__(self) -> None:
        self.diary.write_text("tools are put away")


with tempfile.TemporaryDirectory() as folder:
    diary = Path(folder, "diary.txt")
    diary.write_text("open")
    handle = serve.run(Workshop.bind(str(diary)))

    bicycle = handle.repair.remote("bicycle")
    handle.has_started.remote().result()
    closing = threading.Thread(target=serve.delete, args=("default",))
    closing.start()

    diary.write_text("closing time")
    assert bicycle.result(timeout_s=30) == "bicycle repaired"
    closing.join()
    assert diary.read_text() == "tools are put away"
