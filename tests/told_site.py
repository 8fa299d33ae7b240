"""A store whose events are told, as the runner has it; run as a program, a process that tests may kill."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly.edge import outbox
from anomaly.edge.notify import Backoff, Delivery, MqttSettings, Origin, WebhookSettings
from anomaly.edge.store import Store, StoredEvent
from anomaly.edge.store.database import connect

ORIGIN = Origin("plant north", "line 3")
BASE = "anomaly/plant north/line 3"
SECRET = "a key that only tests use, 32 b."
QUICK = Backoff(0.05, 0.2)


@dataclass
class Site:
    store: Store
    delivery: Delivery

    def start(self, camera: str = "top", **values: Any) -> StoredEvent:
        now = time.time()
        given = {
            "model": "0" * 64,
            "start_utc_s": now,
            "start_pts_s": 1.0,
            "score": 1.5,
            "threshold": 1.0,
            **values,
        }
        return self.store.start_event(camera=camera, **given)

    def end(self, event: StoredEvent) -> StoredEvent:
        return self.store.end_event(event.id, time.time(), 2.0)

    def status(self, sink: str) -> dict[str, Any]:
        return self.delivery.status()[sink]


@contextmanager
def told_site(folder: Path, sinks: Sequence[Any], *, running: bool = True, **more: Any) -> Iterator[Site]:
    delivery = Delivery(lambda: connect(folder / "anomaly.db"), sinks, ORIGIN, **more)
    with Store(folder, [delivery.on_event], on_delete=[delivery.on_delete], schemas=[outbox.SCHEMA]) as store:
        if running:
            delivery.start()
        try:
            yield Site(store, delivery)
        finally:
            assert delivery.stop(10)


def main() -> None:
    """`told_site.py FOLDER mqtt|webhook PORT COUNT`: store so many events, tell what waits, and go on until killed."""
    folder, kind, port, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    sink = (
        MqttSettings("127.0.0.1", port, backoff=QUICK)
        if kind == "mqtt"
        else WebhookSettings(f"http://127.0.0.1:{port}/hook", (SECRET,), backoff=QUICK)
    )
    with told_site(folder, [sink]) as site:
        for _ in range(count):
            event = site.start()
            print(event.id, flush=True)
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
