"""`anomaly run` beside the line: cameras in, events and clips out, until it is stopped."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.artifact import read_description
from anomaly.commands import console
from anomaly.edge import outbox
from anomaly.edge.audit import SCHEMA as AUDIT
from anomaly.edge.audit import Audit
from anomaly.edge.clips import ClipMaker
from anomaly.edge.health import Trouble
from anomaly.edge.ledger import Ledger
from anomaly.edge.loaded import Loaded
from anomaly.edge.logs import logging_to_stderr
from anomaly.edge.metrics import Figures, Probes
from anomaly.edge.notify import Delivery, Origin
from anomaly.edge.notify.site_file import sinks_of
from anomaly.edge.notify.troubles import SinkTroubles
from anomaly.edge.pictures import Pictures
from anomaly.edge.retention import Retention, RetentionSettings, estimate_disk
from anomaly.edge.runner import Runner
from anomaly.edge.secrets import named_secret
from anomaly.edge.segment_name import mask_mark
from anomaly.edge.site import load_site, site_of
from anomaly.edge.store import Store
from anomaly.edge.store.database import connect
from anomaly.edge.store.opening import DATABASE
from anomaly.edge.systemd import tell
from anomaly.edge.vault import ACCOUNTS, Vault
from anomaly.errors import StoreError, UsageError
from anomaly.first_start import checked_here
from anomaly.model import load_model
from anomaly.regions import Regions
from anomaly.thresholds import load_threshold

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomaly.config import RunConfig
    from anomaly.edge.server import Server
    from anomaly.edge.site import Site
    from anomaly.edge.store.timeline import Masks

_log = logging.getLogger(__name__)

#: What a camera is supposed to send where nothing is known of it: H.264 at 1080p and 10 frames a second.
_BITS_PER_S = 4e6
_LEAST_TOKEN = 16
#: Of a site file, what only a start takes up.
_AT_THE_START = ("site", "line", "page", "sinks")


def run(config: RunConfig) -> None:
    """Watch the cameras of a site, or of the flags, until SIGTERM or Ctrl-C."""
    # A reload that is asked for before there is something to load anew is done as soon as there is.
    asked_early: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: asked_early.append(number))
    site = _site(config)
    if config.run.log not in ("auto", "text", "json"):
        raise UsageError(f"run.log={config.run.log!r} is not known; choose auto, text or json")
    as_json = config.run.log == "json" or (config.run.log == "auto" and not sys.stderr.isatty())
    token = (
        named_secret(config.run.scrape_token, "--scrape-token", _LEAST_TOKEN)
        if config.run.scrape_token
        else None
    )
    folder = Path(config.out)
    settings = RetentionSettings(
        clip_days=config.keep.clip_days,
        event_days=config.keep.event_days,
        keep_hours=config.keep.hours,
        recording_bytes=_bytes(config.keep.recording_gb),
        clip_bytes=_bytes(config.keep.clip_gb),
    )
    held: list[Runner] = []

    def on_trouble(trouble: Trouble) -> None:
        for one in held:
            one.trouble(trouble)

    audits: list[Audit] = []
    delivery = Delivery(
        lambda: connect(folder / DATABASE),
        sinks_of(site.document.get("sinks") or {}),
        Origin(site.site, site.line, str(site.document.get("page") or "")),
        scored_since=lambda seconds: bool(held) and held[0].scored_since(seconds),
        on_state=lambda camera, state, who: _set_state(held, audits, camera, state, who),
        on_trouble=SinkTroubles(on_trouble),
        picture=lambda event_id: _picture(store, event_id),
        cameras=lambda: [one.name for one in (held[0].site if held else site).cameras],
    )
    with ExitStack() as stack:
        stack.enter_context(logging_to_stderr(as_json))
        store = stack.enter_context(
            Store(folder, [delivery.on_event], on_delete=[delivery.on_delete], schemas=[outbox.SCHEMA])
        )
        for notice in store.notices:
            console.say(notice)
        audits += _audit(folder, stack)
        pictures = Pictures(store, on_trouble)
        stack.callback(pictures.close)
        retention = Retention(
            store,
            settings,
            on_room=lambda room: _record(held, on=room.recording),
            on_health=lambda connection, detail, over: delivery.on_health(
                connection, "", "", "disk", detail, over=over
            ),
            masked=lambda: {
                name: mask_mark(black)
                for name, black in _masks(store, held[0].site if held else site).items()
            },
            on_trouble=on_trouble,
        )
        clips = stack.enter_context(
            ClipMaker(
                store,
                config.keep.before_s,
                config.keep.after_s,
                black=lambda name: _masks(store, held[0].site if held else site).get(name, ()),
                room=lambda: retention.room.clips,
                on_trouble=on_trouble,
            )
        )
        runner = Runner(
            site,
            Ledger(
                store,
                pictures,
                clips,
                delivery,
                on_watches=lambda *what: _note(audits, lambda audit: audit.threshold(*what)),
            ),
            lambda path, fps: _load(config, path, fps),
            # Also where no camera records now: one may after a reload.
            recording=folder / "recording",
            segment_s=config.keep.segment_s,
            require_certificate=config.run.require_certificate,
            alive=_alive,
        )
        held.append(runner)
        for name, one in runner.status()["cameras"].items():
            told = (name, one["model_digest"], one["recipe"], one["threshold"])
            _note(audits, lambda audit, told=told: audit.threshold(*told))  # type: ignore[misc]
        _headlines(runner, settings, folder)
        stack.enter_context(retention)
        delivery.start()
        stack.callback(delivery.stop)
        stack.enter_context(Figures(runner))
        accounts = None
        server = _serve(config, runner, site, store, delivery, token)
        if server is not None:
            stack.callback(server.stop)
            accounts = server.door.accounts
            if server.start_when_free(runner.trouble):
                console.say(f"The page: {server.url}")
            else:
                console.say(
                    f"No page yet: {server.problem}. It is tried again; cameras are watched all the same."
                )
        if config.run.metrics is not None:
            probes = stack.enter_context(Probes(runner, config.run.metrics, token, accounts))
            if probes.url is None:
                console.say(
                    f"No probes and metrics yet: another program has the port of run.metrics={config.run.metrics}; "
                    "stop it, or give another port. Cameras are watched all the same."
                )
            else:
                console.say(f"Probes and metrics: {probes.url}/healthz, /readyz, /metrics.")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        signal.signal(signal.SIGHUP, lambda *_: _hung_up(config, runner, site, audits))
        if asked_early:
            _hung_up(config, runner, site, audits)
        tell("READY=1")
        try:
            runner.run()
        finally:
            tell("STOPPING=1")
    console.say(f"Stopped. Events, clips and recordings are in {folder}.")


def _site(config: RunConfig) -> Site:
    if config.site is not None:
        if config.source or config.model is not None:
            raise UsageError("--site names cameras and models itself; drop --source and --model")
        site = load_site(Path(config.site))
    else:
        if config.model is None or not config.source:
            raise UsageError("run needs --model and --source, or --site; see `python -m anomaly run --help`")
        site = site_of(
            config.source,
            Path(config.model),
            fps=config.footage.fps,
            record=config.keep.record,
        )
        # What the model was never to see must not be recorded either.
        black = Regions.from_json(read_description(Path(config.model))["regions"]).black
        site = replace(site, cameras=tuple(replace(one, black=black) for one in site.cameras))
    if not config.keep.record:
        site = replace(site, cameras=tuple(replace(one, record=False) for one in site.cameras))
    return site


def _load(config: RunConfig, path: Path, fps: float | None) -> Loaded:
    model = load_model(path, device=config.device, offline=config.weights.offline, runtime=config.runtime)
    return Loaded.of(model, checked_here(model, load_threshold(model, fps=fps)).on_video())


def _reload(config: RunConfig, runner: Runner, began: Site) -> None:
    # In the signal's frame nothing may be slow: a site file is read by the thread that loads.
    runner.reload(lambda: _site_anew(config, began))


def _site_anew(config: RunConfig, began: Site) -> Site:
    """The site for a reload, which takes cameras and models up; says what of the file waits for a start."""
    site = _site(config)
    # What the next start would refuse is better told now, while somebody is there.
    sinks_of(site.document.get("sinks") or {})
    waits = [key for key in _AT_THE_START if site.document.get(key) != began.document.get(key)]
    if waits:
        _log.warning(
            "the site file's %s changed since the start; a reload takes up cameras and models only, start `run` again",
            ", ".join(waits),
        )
    return site


def _hung_up(config: RunConfig, runner: Runner, began: Site, audits: list[Audit]) -> None:
    # A signal does not tell who sent it. A thread writes: the signal may have come in the middle of a transaction.
    note = threading.Thread(
        target=_note, args=(audits, lambda audit: audit.add("signal SIGHUP", "reload")), name="audit"
    )
    try:
        note.start()
    except RuntimeError as error:
        # Raised here it would end whatever the signal interrupted: the watch over all cameras.
        _log.warning("the audit could not be written (%s)", error)
    _reload(config, runner, began)


def _models(site: Site) -> list[Path]:
    """Folders of all models that look at the cameras of a site, or may with another recipe."""
    return sorted({path for one in site.cameras for path in (one.model, *one.recipes.values())})


def _masks(store: Store, site: Site) -> dict[str, Masks]:
    """Privacy masks by camera: as the site has them, of a camera that it has no more those of then."""
    masks = {**store.masks(), **{one.name: one.black for one in site.cameras}}
    return {camera: black for camera, black in masks.items() if black}


def _record(runners: list[Runner], *, on: bool) -> None:
    for runner in runners:
        runner.record(on)


def _alive() -> None:
    tell("WATCHDOG=1")


def _headlines(runner: Runner, settings: RetentionSettings, folder: Path) -> None:
    for name, one in runner.status()["cameras"].items():
        console.say(
            f"{name}: {one['address']}, model {one['model']} ({one['runtime']}). {one['certificate']}"
        )
    recorded = {camera.name: _BITS_PER_S for camera in runner.site.cameras if camera.record}
    if recorded:
        estimate = estimate_disk(recorded, settings)
        console.say(f"Disk, at {_BITS_PER_S / 1e6:g} Mbit/s a camera: {estimate}; in {folder}.")


def _set_state(runners: list[Runner], audits: list[Audit], camera: str, state: str, who: str) -> None:
    # A camera that is not announced is muted, whoever asked for it.
    if not audits and state != "running":
        raise StoreError(
            f"{camera} stays as it is: no audit can be written that {who} sets it to {state}; see to {ACCOUNTS}"
        )
    for audit in audits:
        audit.state(who, camera, state)
    for runner in runners:
        runner.set_state(camera, state, who)


def _audit(folder: Path, stack: ExitStack) -> list[Audit]:
    # Also without a page: MQTT mutes, and thresholds come with models. Its damage must not keep cameras unwatched.
    try:
        vault = Vault(folder / ACCOUNTS, (AUDIT,))
    except StoreError as error:
        console.say(f"No audit is written: {error}")
        return []
    stack.callback(vault.close)
    return [Audit(vault)]


def _note(audits: list[Audit], act: Callable[[Audit], None]) -> None:
    # What has happened already is not undone by a full disk.
    for audit in audits:
        try:
            act(audit)
        except StoreError as error:
            _log.warning("the audit could not be written (%s)", error)


def _serve(
    config: RunConfig,
    runner: Runner,
    began: Site,
    store: Store,
    delivery: Delivery,
    scrape_token: str | None,
) -> Server | None:
    """None where no page is asked for, or the accounts cannot be opened: cameras are watched all the same."""
    if config.serve is None:
        return None
    from anomaly.edge.server import Controls, ServeSettings, serve

    host, colon, port = str(config.serve).rpartition(":")
    if not colon or not port.isdigit():
        raise UsageError(f"--serve {config.serve!r} is not HOST:PORT; give one such as 127.0.0.1:8080")
    door = config.door
    settings = ServeSettings(
        host=host,
        port=int(port),
        allowed_hosts=tuple(door.allowed_hosts),
        tls_cert=Path(door.tls_cert) if door.tls_cert else None,
        tls_key=Path(door.tls_key) if door.tls_key else None,
        insecure=door.insecure,
        trusted_proxy=door.trusted_proxy,
        outer_proxies=tuple(door.outer_proxies),
        scrape_token=scrape_token,
        idle_s=door.idle_minutes * 60.0,
        absolute_s=door.session_hours * 3600.0,
        max_streams=door.streams,
    )
    controls = Controls(delivery, lambda: _reload(config, runner, began), lambda: _models(runner.site))
    try:
        return serve(runner, store, settings, controls)
    except StoreError as error:
        runner.trouble(Trouble("page", True, time.time(), {"reason": str(error)}))
        console.say(f"No page: {error}. Cameras are watched all the same.")
        return None


def _picture(store: Store, event_id: str) -> Path | None:
    """An event's picture for people, unless its camera has other privacy masks by now: the page shows it neither."""
    event = store.event(event_id)
    if event is None or event.heatmap is None:
        return None
    mark = mask_mark(store.masks().get(event.camera, ()))
    return None if mark and store.media_mark(event_id, "pictures") != mark else store.path(event.heatmap)


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)
