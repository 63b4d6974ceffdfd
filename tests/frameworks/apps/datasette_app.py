"""Datasette, an application rather than a framework: a database as pages and JSON."""

from __future__ import annotations

import sqlite3
from typing import Any

from datasette.app import Datasette

import serve_lite as serve
from tests.frameworks import kitchen

PREFIX = "/datasette/"


def build() -> Any:
    """Called in each replica."""
    file = kitchen.here("dishes.db")
    with sqlite3.connect(file) as database:
        database.execute("create table if not exists dishes (id integer primary key, name text)")
        database.execute("insert or replace into dishes values (1, 'soup')")
    return Datasette([str(file)], settings={"base_url": PREFIX}).app()


served = serve.deployment(serve.ingress(build)()).bind()
