"""`hello` as a mosec worker."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker


class Hello(Worker):  # type: ignore[misc]  # mosec has no types where this is checked
    def forward(self, data: Any) -> str:
        return "hello"


if __name__ == "__main__":
    server = Server()
    server.append_worker(Hello, num=1)
    server.run()
