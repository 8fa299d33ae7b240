"""The sinks: how long after an event is committed it is received, and how a broker's outage is made up for.

    python benchmarks/sinks.py [--quick] [--json FILE]

Needs Debian's mosquitto. Broker, receiver, store and subscriber share this machine; the times are those of one event
after the other, so that none waits for another.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import report

sys.path.insert(0, str(report.ROOT / "tests"))


def main() -> None:
    arguments = report.options_parser(__doc__).parse_args()
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")):
        raise SystemExit("no MQTT broker on this machine; apt-get install --no-install-recommends mosquitto")
    figures = report.machine()
    with report.workplace() as work:
        count = 100 if arguments.quick else 500
        figures |= committed_to_received(work / "mqtt", "mqtt", count)
        figures |= committed_to_received(work / "webhook", "webhook", count)
        figures |= outage(work / "outage", 1000)
    report.show("Sinks", figures)
    report.write_json(arguments.json, figures)


def committed_to_received(work: Path, kind: str, count: int) -> report.Figures:
    """Milliseconds from the return of `Store.start_event` to the message in the receiver's hands."""
    from broker import Broker, Listener, Receiver, until
    from told_site import SECRET, told_site

    from anomaly.edge.notify import MqttSettings, WebhookSettings

    waits: list[float] = []
    commits: list[float] = []
    with Broker(work / "broker") as broker, Listener(broker.port) as listener, Receiver() as receiver:
        times: dict[str, float] = listener.times
        settings: MqttSettings | WebhookSettings = MqttSettings("127.0.0.1", broker.port)
        if kind == "webhook":
            times = {}
            settings = WebhookSettings(receiver.url, (SECRET,))

            def note(content: dict[str, str]) -> int:
                times[content["id"]] = time.perf_counter()
                return 204

            receiver.answer = note
        with told_site(work / "site", [settings]) as site:
            for number in range(count + 10):
                begin = time.perf_counter()
                event = site.start()
                committed = time.perf_counter()
                own = f"{event.id}-start"
                until(_there(times, own))
                if number >= 10:
                    commits.append(committed - begin)
                    waits.append(times[own] - committed)
    return {
        f"{kind}_events": count,
        f"{kind}_commit_p50_ms": 1000 * statistics.median(commits),
        f"{kind}_committed_to_received_p50_ms": 1000 * statistics.median(waits),
        f"{kind}_committed_to_received_p99_ms": 1000 * statistics.quantiles(waits, n=100)[98],
    }


def outage(work: Path, count: int) -> report.Figures:
    """A broker that is away while `count` events happen: how long until all are delivered, and in which state."""
    from broker import Broker, Listener, until
    from told_site import told_site

    from anomaly.edge.notify import MqttSettings

    broker = Broker(work / "broker")
    with broker, Listener(broker.port) as listener:
        with told_site(work / "site", [MqttSettings("127.0.0.1", broker.port)]) as site:
            until(lambda: site.status("mqtt")["connected"])
            broker.stop()
            expected = [site.start(f"camera {number % 4}").id for number in range(count)]
            broker.start()
            begin = time.perf_counter()
            until(lambda: len(listener.told("start")) >= 1, 60)
            first = time.perf_counter() - begin
            until(lambda: site.status("mqtt")["pending"] == 0, 120)
            drained = time.perf_counter() - begin
            until(lambda: len(listener.once("start")) >= count, 60)
        told = listener.told("start")
        received = [one["event_id"] for one in listener.once("start")]
    return {
        "outage_events": count,
        "outage_seconds_to_first": first,
        "outage_seconds_to_drain": drained,
        "outage_delivered": len(set(received) & set(expected)),
        "outage_in_order": int(received == expected),
        "outage_repeated_with_the_same_id": len(told) - len(received),
    }


def _there(times: dict[str, float], own: str) -> Callable[[], bool]:
    return lambda: own in times


if __name__ == "__main__":
    main()
