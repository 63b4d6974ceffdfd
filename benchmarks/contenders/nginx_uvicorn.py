"""nginx in front of uvicorn over a Unix socket: the set-up by hand that a process in front costs.

This is the limit that the figures are held against: a C proxy and a second process behind it.
"""

from __future__ import annotations

import os

from benchmarks.contenders.base import App, Command, Place, Role, program_version, system_program
from benchmarks.contenders.uvicorn_plain import UvicornPlain

CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_buffer_size 16m;
    map $http_upgrade $connection_header {{ default upgrade; "" ""; }}
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 100000000;
    upstream replica {{
        server unix:{directory}/uvicorn.sock;
        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://replica;
            proxy_http_version 1.1;
            proxy_set_header Connection $connection_header;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Host $host;
        }}
    }}
}}
"""


class NginxUvicorn(UvicornPlain):
    name = "nginx"
    title = "nginx → uvicorn"

    def missing(self) -> str | None:
        if system_program("nginx") is None:
            return "nginx is not installed (Debian and Ubuntu: apt-get install nginx)"
        return super().missing()

    def versions(self) -> dict[str, str]:
        nginx = system_program("nginx")
        return {"nginx": program_version(nginx, "-v") if nginx else "absent", **super().versions()}

    def commands(self, app: App, place: Place) -> list[Command]:
        nginx = system_program("nginx")
        assert nginx is not None, "checked by missing()"
        config = place.directory / "nginx.conf"
        # The worker must be allowed to open uvicorn's socket in our private directory.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(CONFIG.format(user=user, directory=place.directory, port=place.port))
        return [
            self.server(app, "--uds", str(place.directory / "uvicorn.sock")),
            Command([nginx, "-e", str(place.directory / "nginx.log"), "-c", str(config)]),
        ]

    def role(self, name: str, command: str) -> Role:
        return "front" if name == "nginx" else "replica"
