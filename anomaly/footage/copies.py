"""Files that hold the same bytes under several names: linked, copied, or exported twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from anomaly.footage.sources import Source, fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence


def without_copies(sources: Sequence[Source]) -> tuple[list[Source], dict[str, str]]:
    """Each file once, the first of its copies; files of a length of their own are not read for it.

    Args:
        sources: names are unique.

    Returns:
        The sources kept, and for the name of each that is not the name of the one it is a copy of. A file that cannot be read is kept.
    """
    lengths = [_length(source) for source in sources]
    count = Counter(lengths)
    kept: list[Source] = []
    copies: dict[str, str] = {}
    first: dict[str, str] = {}
    for source, length in zip(sources, lengths, strict=True):
        if length and count[length] > 1:
            try:
                original = first.setdefault(fingerprint(source.path), source.name)
            except OSError:
                original = source.name  # whoever reads the footage says so
            if original != source.name:
                copies[source.name] = original
                continue
        kept.append(source)
    return kept, copies


def _length(source: Source) -> int:
    """Bytes of a file; 0 = none, or not known."""
    try:
        return source.path.stat().st_size
    except OSError:
        return 0
