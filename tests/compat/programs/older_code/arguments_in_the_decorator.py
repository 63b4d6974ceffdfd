"""Constructor arguments used to stand in the decorator; `bind()` without arguments uses them."""

import serve_lite as serve


@serve.deployment(init_args=("Basel",), init_kwargs={"zone": 2}, max_concurrent_queries=5)
class Tickets:
    def __init__(self, city, zone=1):
        self.text = f"{city}, zone {zone}"

    def show(self):
        return self.text


handle = serve.run(Tickets.bind())
assert handle.show.remote().result(5) == "Basel, zone 2"
