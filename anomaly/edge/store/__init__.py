"""What the live side keeps: events before they are announced, and all that belongs to them."""

from anomaly.edge.store.deletion import Deleted
from anomaly.edge.store.event import StoredEvent
from anomaly.edge.store.review import Miss, Verdict
from anomaly.edge.store.store import Store
from anomaly.edge.store.timeline import CameraState, Gap, Health, ScorePoint, Segment

__all__ = [
    "CameraState",
    "Deleted",
    "Gap",
    "Health",
    "Miss",
    "ScorePoint",
    "Segment",
    "Store",
    "StoredEvent",
    "Verdict",
]
