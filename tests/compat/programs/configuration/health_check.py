"""A replica whose `check_health` keeps failing is replaced by a new one."""

import os
import time

import serve_lite as serve


@serve.deployment(health_check_period_s=0.05, health_check_timeout_s=5)
class Sensor:
    def __init__(self) -> None:
        self.is_broken = False

    def check_health(self) -> None:
        if self.is_broken:
            raise RuntimeError("the sensor does not answer")

    def break_it(self) -> int:
        self.is_broken = True
        return os.getpid()

    def process(self) -> int:
        return os.getpid()


handle = serve.run(Sensor.bind())
broken = handle.break_it.remote().result()

deadline = time.monotonic() + 30
while handle.process.remote().result() == broken:
    assert time.monotonic() < deadline, "nobody replaced the broken sensor"

while serve.status().applications["default"].status != "RUNNING":
    assert time.monotonic() < deadline, "the application did not recover"
