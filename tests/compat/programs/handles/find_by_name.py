"""Handles are found by name: an application's from anywhere, a deployment's also from inside its application."""

import serve_lite as serve


@serve.deployment
class Library:
    def find(self, isbn: str) -> str:
        return {"978-0": "Emma", "978-1": "Middlemarch"}[isbn]


@serve.deployment
class Desk:
    def __init__(self, library) -> None:
        self.shelf = library

    async def __call__(self, isbn: str) -> str:
        # Inside a replica the application is known.
        library = serve.get_deployment_handle("Library")
        return await library.find.remote(isbn)


serve.run(Desk.bind(Library.bind()), name="town", route_prefix="/town")

desk = serve.get_app_handle("town")
assert desk.remote("978-1").result() == "Middlemarch"

library = serve.get_deployment_handle("Library", app_name="town")
assert library.find.remote("978-0").result() == "Emma"

try:
    serve.get_deployment_handle("Archive", app_name="town")
except KeyError as error:
    print(error)
else:
    raise AssertionError("there is no archive")
