"""The page's files: complete, from this server alone, and nothing of the server's goes in as markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import anomaly.edge.server.app as app

FILES = sorted(app.UI.iterdir())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_brings_in_nothing_from_elsewhere_and_makes_no_markup(file: Path):
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|url\(['\"]?//|@import", text)
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    if file.suffix == ".html":
        assert not re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_everything_that_is_asked_for_is_there():
    asked = set()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        asked |= set(re.findall(r'from "\./([^"]+)"', text)) | set(re.findall(r'"/static/([^"]+)"', text))
    assert asked == {file.name for file in FILES} - {"index.html"}
