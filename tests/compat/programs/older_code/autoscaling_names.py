"""The names that automatic scaling had in 2.7 are read as today's."""

import serve_lite as serve
from serve_lite.config import AutoscalingConfig


@serve.deployment(
    autoscaling_config={
        "min_replicas": 2,
        "max_replicas": 4,
        "target_num_ongoing_requests_per_replica": 3,
    },
    max_concurrent_queries=6,
)
class Queue:
    def take(self, number: int) -> int:
        return number + 1


config = Queue.autoscaling_config
assert isinstance(config, AutoscalingConfig)
assert (config.min_replicas, config.max_replicas, config.get_target_ongoing_requests()) == (2, 4, 3)

handle = serve.run(Queue.bind())
assert handle.take.remote(1).result(10) == 2
