"""A replica chosen beforehand, with a place kept free on it. Made by `DeploymentHandle.choose_replica`."""

from __future__ import annotations

from serve_lite.responses import StreamCall
from serve_lite.state.ids import DeploymentId


class PlaceCall(StreamCall):
    """The call that keeps a place: a stream of one item, which lasts until the place is used or given back."""

    replica_id = ""  #: where it went last

    def on_sent(self, replica_id: str) -> None:
        self.replica_id = replica_id


class ReplicaSelection:
    """Which replica was chosen. Good for one `dispatch`, inside the block that chose it."""

    __slots__ = ("deployment_id", "is_held", "is_used", "replica_id", "slot")

    def __init__(self, deployment_id: DeploymentId, slot: str) -> None:
        self.deployment_id = deployment_id
        self.replica_id = ""
        self.slot = slot  #: the name under which the replica keeps the place
        self.is_held = True  #: the block that chose it has not ended
        self.is_used = False  #: a call was dispatched to it

    def use(self) -> None:
        """Take the place for a call.

        Raises:
            RuntimeError: it was used already, or given back at the end of the block.
        """
        if self.is_used or not self.is_held:
            why = "was used by another call" if self.is_used else "was given back at the end of its block"
            raise RuntimeError(
                f"The place on replica {self.replica_id} {why}; choose a replica for each call."
            )
        self.is_used = True

    def __repr__(self) -> str:
        return f"ReplicaSelection(replica='{self.replica_id}')"
