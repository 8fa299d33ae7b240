"""The frame of every page, and pictures inside it."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

import cv2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.types import ImageArray

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #ffffff; --card: #f4f6f8; --line: #d7dde4; --accent: #0b62a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa6b5; --paper: #14181e; --card: #1d232b; --line: #333c48; --accent: #6db3ee; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
p { max-width: 60rem; } .lead { font-size: 1.1rem; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; break-inside: avoid; }
.card h3 { margin: 0 0 .5rem; font-size: 1rem; overflow-wrap: anywhere; }
.pair { display: flex; gap: .35rem; } .pair img { flex: 1; min-width: 0; }
img, svg { max-width: 100%; height: auto; border-radius: .25rem; }
dl { display: grid; grid-template-columns: fit-content(40%) 1fr; gap: .15rem .9rem; margin: .5rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } .scroll { overflow-x: auto; }
.verdict { background: var(--card); border-left: .45rem solid var(--mark); border-radius: .25rem; padding: 1rem 1.25rem; }
.verdict p { margin: .35rem 0; } .verdict strong { font-size: 1.3rem; line-height: 1.35; display: block; }
.yes { --mark: #009e73; } .no { --mark: #d55e00; } code { overflow-wrap: anywhere; font-size: .85em; }
.sign { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 3rem 1.5rem; margin-top: 3rem; }
.sign div { border-top: 1px solid var(--ink); padding-top: .3rem; color: var(--soft); }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; }
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 11pt; } h2, h3, h2 + p { break-after: avoid; }
  .cards { grid-template-columns: 1fr 1fr; } svg, tr, .verdict, .sign { break-inside: avoid; }
  .scroll { overflow: visible; } * { print-color-adjust: exact; }
}
"""


def page(title: str, introduction: str, parts: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        introduction: plain text, one paragraph.
        parts: HTML, already escaped; runs of pictures are laid out as cards.
    """
    return (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{escape(title)}</h1>\n<p class=lead>{escape(introduction)}</p>\n"
        + _laid_out(parts)
        + "\n</html>\n"
    )


def section(title: str, text: str = "") -> str:
    """A heading with a paragraph."""
    return f"<h2>{escape(title)}</h2>" + (f"<p>{escape(text)}</p>" if text else "")


def picture(images: Sequence[str], title: str, facts: Sequence[tuple[str, str]]) -> str:
    """A card: pictures side by side (data addresses), and facts under them."""
    shown = "".join(f'<img src="{image}" alt="{escape(title)}">' for image in images)
    return f"<div class=card><h3>{escape(title)}</h3><div class=pair>{shown}</div>{facts_list(facts)}</div>"


def facts_list(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{rows}</dl>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def jpeg(image: ImageArray, longest: int = 480) -> str:
    """A picture as a data address, made smaller where it is larger than `longest` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1.0 else image
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _laid_out(parts: Sequence[str]) -> str:
    result: list[str] = []
    in_cards = False
    for part in parts:
        is_card = part.startswith("<div class=card>")
        if is_card != in_cards:
            result.append("<div class=cards>" if is_card else "</div>")
            in_cards = is_card
        result.append(part)
    if in_cards:
        result.append("</div>")
    return "\n".join(result)
