"""What the API takes and gives, as JSON. Times ending in `_utc_s` are POSIX seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# The year 2096: later times are mistakes, such as milliseconds.
LAST_UTC_S = 4.0e9
UtcS = Annotated[float, Field(ge=0, le=LAST_UTC_S, allow_inf_nan=False)]
RoleName = Literal["viewer", "operator", "engineer", "admin"]
ScopeName = Literal["live", "events", "review", "control", "metrics", "admin"]
StateName = Literal["running", "stopped", "changeover", "maintenance"]
VerdictWord = Literal["real", "false alarm", "unsure"]
MediaKind = Literal["snapshot", "heatmap", "normal", "clip", "preview"]


class Problem(BaseModel):
    """Any answer of 400 and above."""

    detail: str


class _Taken(BaseModel):
    # A misspelt key must not be dropped in silence.
    model_config = ConfigDict(extra="forbid", str_max_length=2000)


class Done(BaseModel):
    """It is done, and on the disk."""

    done: bool = True


class LogIn(_Taken):
    """Who signs in."""

    name: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=1000)


class NewPassword(_Taken):
    """Someone's own password, changed."""

    old: str = Field(max_length=1000)
    new: str = Field(max_length=1000)


class SignedIn(BaseModel):
    """Who is signed in. `csrf` goes into the header X-CSRF-Token of everything that is not a GET."""

    signed_in: bool
    name: str | None = None
    role: RoleName | None = None
    csrf: str | None = None
    ends_utc_s: float | None = None
    setup: str | None = Field(
        default=None,
        description="the command that makes the first account, where there is none; FOLDER is what `run` writes to",
    )


class Cameras(BaseModel):
    """All cameras, each as the runner tells it, with its name; `site` is what is told of all together."""

    utc_s: float
    cameras: list[dict[str, Any]]
    site: dict[str, Any]


class KnownCameras(BaseModel):
    """Names: of the cameras there are now, and of `former` ones that something is still kept of."""

    cameras: list[str]
    former: list[str]


class NewState(_Taken):
    """A camera's state, set by hand."""

    state: StateName


class NewRecipe(_Taken):
    """A camera's recipe, chosen by its code."""

    recipe: str = Field(min_length=1, max_length=200)


class Sinks(BaseModel):
    """How each sink stands, as `notify.Delivery.status` tells it, with its name."""

    sinks: list[dict[str, Any]]


class SentAgain(BaseModel):
    """How many messages are sent again."""

    count: int


class VerdictOut(BaseModel):
    """What a person said of an event; the last one counts."""

    verdict: VerdictWord
    who: str
    note: str
    model: str
    utc_s: float


class Media(BaseModel):
    """Addresses of an event's files, null where there is none."""

    snapshot: str | None = None
    heatmap: str | None = None
    normal: str | None = None
    clip: str | None = None
    preview: str | None = None


class EventOut(BaseModel):
    """One incident. `box` is [x0, y0, x1, y1] in pixels, `frame_size` [height, width]."""

    id: str
    camera: str
    model: str
    recipe: str
    state: str
    announced: bool
    certified: bool
    doubt: str
    start_utc_s: float
    peak_utc_s: float
    end_utc_s: float | None
    score: float | None
    threshold: float | None
    continued: bool
    box: tuple[int, int, int, int] | None
    frame_size: tuple[int, int] | None
    explanation: dict[str, Any]
    clip_state: str
    clip_start_utc_s: float | None
    clip_end_utc_s: float | None
    held: bool
    status: str
    verdict: VerdictOut | None
    media: Media


class EventDetail(EventOut):
    """One incident with everything said of it, oldest first."""

    verdicts: list[VerdictOut]


class Events(BaseModel):
    """A page of events, newest first; `next_before_id` asks for the next page, null at the end."""

    events: list[EventOut]
    next_before_id: str | None


class NewVerdict(_Taken):
    """What a person says of an event."""

    verdict: VerdictWord
    note: str = Field("", max_length=2000)


class Hold(_Taken):
    """Whether retention leaves an event alone."""

    held: bool


class Scores(BaseModel):
    """Scores over time, of each stretch the highest: columns of equal length; null where undecided."""

    camera: str
    utc_s: list[float]
    score: list[float | None]
    decision_score: list[float | None]
    gaps: list[GapOut]


class GapOut(BaseModel):
    """Time in which nothing was scored ("blind") or nothing was to be announced ("state")."""

    start_utc_s: float
    end_utc_s: float
    reason: str


class SegmentOut(BaseModel):
    """A piece of the rolling recording, to be played from `url`."""

    id: int
    start_utc_s: float
    end_utc_s: float
    bytes: int
    codec: str
    url: str


class Recording(BaseModel):
    """Pieces of a camera's recording, in the order in which they were recorded."""

    camera: str
    segments: list[SegmentOut]


class NewMiss(_Taken):
    """An anomaly in the recording that raised no event."""

    camera: str = Field(min_length=1, max_length=200)
    start_utc_s: UtcS
    end_utc_s: UtcS
    label: str = Field("", max_length=200)


class MissOut(BaseModel):
    """A marked miss."""

    id: str
    camera: str
    start_utc_s: float
    end_utc_s: float
    label: str
    who: str
    model: str
    utc_s: float
    clip_state: str
    media: Media


class Misses(BaseModel):
    """Marked misses, newest first."""

    misses: list[MissOut]


class HealthOut(BaseModel):
    """Something wrong with a camera, or with the machine (camera ""); `end_utc_s` null = still so."""

    id: int
    camera: str
    kind: str
    utc_s: float
    end_utc_s: float | None
    detail: dict[str, Any]


class HealthList(BaseModel):
    """Health events, newest first."""

    health: list[HealthOut]


Corner = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)]
PolygonIn = Annotated[list[Corner], Field(min_length=3, max_length=200)]


class RegionsIn(_Taken):
    """What of a camera's picture counts at the next fit: polygons of [x, y] in 0..1."""

    look: list[PolygonIn] = Field(default_factory=list, max_length=100)
    ignore: list[PolygonIn] = Field(default_factory=list, max_length=100)
    #: When those were drawn that these are to replace, 0 = none were; others by now are refused. None = replace any.
    replaces_utc_s: float | None = Field(default=None, ge=0, le=1e12, allow_inf_nan=False)


class RegionsOut(BaseModel):
    """The polygons, who drew them and when, and the settings that give them to `fit`."""

    camera: str
    look: list[PolygonIn]
    ignore: list[PolygonIn]
    who: str | None = None
    utc_s: float | None = None
    overrides: str


class Interval(_Taken):
    """Footage of one camera, start <= time < end."""

    camera: str = Field(min_length=1, max_length=200)
    start_utc_s: UtcS
    end_utc_s: UtcS


class ModelRemains(BaseModel):
    """A model that still holds crops or evidence of a deleted time, or may hold some.

    `clips` were recorded then; of `undated` ones the names do not tell when. `command` is what to do next; the runner
    shows what it has loaded until it loads its models anew.
    """

    model: str
    clips: int = 0
    undated: int = 0
    problem: str = ""
    command: str


class DeletedOut(BaseModel):
    """How many were deleted, and which models still hold something of that time."""

    events: int
    clips: int
    misses: int
    segments: int
    scores: int
    leftovers: int
    models: list[ModelRemains]


class AuditLine(BaseModel):
    """One thing that was done."""

    id: int
    utc_s: float
    who: str
    address: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditPage(BaseModel):
    """Lines of the audit, newest first."""

    lines: list[AuditLine]
    next_before_id: int | None


class UserOut(BaseModel):
    """An account."""

    name: str
    role: RoleName
    created_utc_s: float


class Users(BaseModel):
    """All accounts, by name."""

    users: list[UserOut]


class NewUser(_Taken):
    """An account to make."""

    name: str = Field(min_length=1, max_length=64)
    role: RoleName
    password: str = Field(max_length=1000)


class ChangedUser(_Taken):
    """What to change of an account; what is left out stays."""

    role: RoleName | None = None
    password: str | None = Field(default=None, max_length=1000)


class TokenOut(BaseModel):
    """A token, without its secret."""

    id: str
    owner: str
    label: str
    role: RoleName
    scopes: list[ScopeName]
    created_utc_s: float
    expires_utc_s: float | None


class Tokens(BaseModel):
    """All tokens, oldest first."""

    tokens: list[TokenOut]


class NewToken(_Taken):
    """A token to make for an account."""

    owner: str = Field(min_length=1, max_length=64)
    label: str = Field(min_length=1, max_length=100)
    role: RoleName
    scopes: list[ScopeName] = Field(min_length=1, max_length=6)
    days: float | None = Field(default=None, gt=0, le=3660, allow_inf_nan=False)


class MadeToken(TokenOut):
    """A new token with the text to hand to the program; it is shown only now."""

    token: str
