"""What was wrong with a video while it was read, gathered into one line, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anomaly.errors import DamagedFootageError, UsageError


def refuses(on_error: str) -> bool:
    """Whether `footage.on_error` ("skip" or "refuse") says to refuse damaged files."""
    if on_error not in {"skip", "refuse"}:
        raise UsageError(f"footage.on_error={on_error!r} is not known; choose skip or refuse")
    return on_error == "refuse"


def damage_handler(tell: Callable[[str], None], *, refuse: bool) -> Callable[[str], None]:
    """What `read_frames` calls on damage: raises DamagedFootageError where it is refused, else tells it."""

    def on_damage(message: str) -> None:
        if refuse:
            raise DamagedFootageError(message)
        tell(message)

    return on_damage


@dataclass(slots=True)
class Damage:
    """Counts of what could not be read, and between which times.

    Attributes:
        undecodable: packets that the decoder refused, or the container marked as incomplete.
        flawed: decoded frames that the decoder itself marked as damaged; they are left out.
        missing: frames that went in as packets or were announced by the file, and never came out.
        breaks: times at which the container had to be searched for its next readable part.
        cause: the first thing that went wrong, in libav's words or ours.
        first_s, last_s: seconds between which it happened.
        cut_short_s: where the file announces more than it holds, the length announced.
    """

    undecodable: int = 0
    flawed: int = 0
    missing: int = 0
    breaks: int = 0
    cause: str = ""
    first_s: float = 0.0
    last_s: float = 0.0
    cut_short_s: float | None = None

    def reset(self) -> None:
        """Forget everything."""
        self.undecodable = self.flawed = self.missing = self.breaks = 0
        self.cause, self.first_s, self.last_s, self.cut_short_s = "", 0.0, 0.0, None

    def __bool__(self) -> bool:
        return bool(self.cause)

    def note(self, cause: str, at_s: float, until_s: float = 0.0) -> None:
        """Remember when something went wrong, and the first cause."""
        if not self.cause:
            self.cause, self.first_s = cause, at_s
        self.last_s = max(self.last_s, at_s, until_s)

    def message(self, name: str, frames: int, reached_s: float) -> str:
        """One line that names the file, what is lost, the time reached, and the remedy."""
        lost = [
            f"{count} {what}{'' if count == 1 else 's'}"
            for count, what in (
                (self.undecodable, "undecodable packet"),
                (self.flawed, "damaged frame"),
                (self.missing, "missing frame"),
                (self.breaks, "break in the container"),
            )
            if count
        ]
        if self.cut_short_s is not None:
            lost.append(f"ends early, {self.cut_short_s:.1f} s were announced")
        span = f"{self.first_s:.1f} s"
        if self.last_s - self.first_s >= 0.1:
            span = f"{self.first_s:.1f} s to {self.last_s:.1f} s"
        return (
            f"{name} is damaged at {span} ({', '.join(lost) or self.cause}; {self.cause}); "
            f"{frames} frame{'' if frames == 1 else 's'} up to {reached_s:.1f} s could be read; "
            "copy or record it again for the rest"
        )
