"""From the store's rows to what the API answers: paths become addresses, numbers those that JSON can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomaly.artifact import finite
from anomaly.edge.server.schemas import (
    EventDetail,
    GapOut,
    Media,
    MissOut,
    Scores,
    SegmentOut,
    VerdictOut,
)

if TYPE_CHECKING:
    from anomaly.edge.server.accounts import Token
    from anomaly.edge.store import Miss, ScorePoint, Segment, StoredEvent, Verdict


def verdict_out(verdict: Verdict) -> VerdictOut:
    """A verdict as JSON."""
    return VerdictOut.model_validate(
        {name: getattr(verdict, name) for name in ("verdict", "who", "note", "model", "utc_s")}
    )


def event_out(event: StoredEvent, verdicts: list[Verdict]) -> EventDetail:
    """An event as JSON; paths become addresses."""
    said = [verdict_out(one) for one in verdicts]
    return EventDetail(
        id=event.id,
        camera=event.camera,
        model=event.model,
        recipe=event.recipe,
        state=event.state,
        announced=event.announced,
        certified=event.certified,
        doubt=event.doubt,
        start_utc_s=event.start_utc_s,
        peak_utc_s=event.peak_utc_s,
        end_utc_s=event.end_utc_s,
        score=finite(event.score),
        threshold=finite(event.threshold),
        continued=event.continued,
        box=event.box,
        frame_size=event.frame_size,
        explanation=plain(event.explanation),
        clip_state=event.clip_state,
        clip_start_utc_s=event.clip_start_utc_s,
        clip_end_utc_s=event.clip_end_utc_s,
        held=event.held,
        status=event.status,
        verdict=said[-1] if said else None,
        media=_media(event, f"/api/events/{event.id}", ("snapshot", "heatmap", "normal", "clip", "preview")),
        verdicts=said,
    )


def miss_out(miss: Miss) -> MissOut:
    """A miss as JSON."""
    return MissOut(
        id=miss.id,
        camera=miss.camera,
        start_utc_s=miss.start_utc_s,
        end_utc_s=miss.end_utc_s,
        label=miss.label,
        who=miss.who,
        model=miss.model,
        utc_s=miss.utc_s,
        clip_state=miss.clip_state,
        media=_media(miss, f"/api/misses/{miss.id}", ("clip", "preview")),
    )


def segment_out(segment: Segment, url: str) -> SegmentOut:
    """A recorded piece as JSON."""
    return SegmentOut(
        id=segment.id,
        start_utc_s=segment.start_utc_s,
        end_utc_s=segment.end_utc_s,
        bytes=segment.bytes,
        codec=segment.codec,
        url=url,
    )


def scores_out(camera: str, points: list[ScorePoint], gaps: list[GapOut]) -> Scores:
    """Scores as columns."""
    return Scores(
        camera=camera,
        utc_s=[point.utc_s for point in points],
        score=[finite(point.score) for point in points],
        decision_score=[finite(point.decision_score) for point in points],
        gaps=gaps,
    )


def token_out(token: Token) -> dict[str, Any]:
    """A token as JSON, without its secret."""
    return {
        "id": token.id,
        "owner": token.owner,
        "label": token.label,
        "role": token.role,
        "scopes": list(token.scopes),
        "created_utc_s": token.created_utc_s,
        "expires_utc_s": token.expires_utc_s,
    }


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tuples become lists, numbers that are not finite null, the rest text."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return finite(value)
    return str(value)


def _media(row: StoredEvent | Miss, base: str, kinds: tuple[str, ...]) -> Media:
    return Media(**{kind: f"{base}/{kind}" for kind in kinds if getattr(row, kind) is not None})
