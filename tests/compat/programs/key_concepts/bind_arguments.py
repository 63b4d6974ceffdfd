"""`bind` takes the constructor's arguments, so that one class can be deployed with different settings."""

import serve_lite as serve


@serve.deployment
class Converter:
    def __init__(self, unit: str, *, factor: float, offset: float = 0.0) -> None:
        self.unit, self.factor, self.offset = unit, factor, offset

    def __call__(self, value: float) -> str:
        return f"{value * self.factor + self.offset:.1f} {self.unit}"


to_fahrenheit = serve.run(Converter.bind("°F", factor=1.8, offset=32), name="temperature", route_prefix=None)
to_miles = serve.run(Converter.bind("mi", factor=0.621371), name="distance", route_prefix=None)

assert to_fahrenheit.remote(100).result() == "212.0 °F"
assert to_miles.remote(42.195).result() == "26.2 mi"
