"""Pages: one file, nothing from outside, every text escaped."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np

from anomaly.calibration import Series, decide
from anomaly.decider import DeciderConfig
from anomaly.report.charts import score_over_time
from anomaly.report.page import facts_list, jpeg, page, picture, section, table
from anomaly.report.study import StudyRow, study_page

ODD = '<script>alert(1)</script> & "it\'s"'
SAFE = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;it&#x27;s&quot;"


def test_every_text_is_escaped():
    parts = [
        section(ODD, ODD),
        picture(["data:,"], ODD, [(ODD, ODD)]),
        table((ODD,), [(ODD,)]),
        facts_list([(ODD, ODD)]),
    ]
    made = page(ODD, ODD, parts)
    assert "<script" not in made
    assert made.count(SAFE) == 3 + 2 + 4 + 2 + 2


def test_a_page_forbids_itself_the_network():
    assert "default-src 'none'; img-src data:" in page("a", "b", [])


def test_pictures_that_follow_each_other_lie_in_one_grid():
    card = picture(["data:,"], "a", [])
    made = page("t", "i", [card, card, section("next"), card])
    assert made.count("<div class=cards>") == 2
    assert made.count("<div") == made.count("</div>")


def test_a_picture_is_a_jpeg_of_bounded_size():
    image = np.zeros((300, 1200, 3), np.uint8)
    image[..., 0] = 200
    data = jpeg(image).removeprefix("data:image/jpeg;base64,")
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (120, 480, 3)
    assert decoded[60, 240, 2] > 190  # red stayed red
    tiny = base64.b64decode(jpeg(np.zeros((1, 2000, 3), np.uint8)).split(",")[1])
    assert cv2.imdecode(np.frombuffer(tiny, np.uint8), cv2.IMREAD_COLOR).shape == (1, 480, 3)


def test_a_table_of_a_study_that_is_cut_says_so():
    curve = ((0.0, 1.0), (0.5, 1.0), (0.1, 0.4))
    rows = [StudyRow(f"s={i}", 1.0, 1.0, 0.4, 2.0, 3.0, 0.01, 9, 1.0, 0.95, curve) for i in range(201)]
    assert "The first 200 of 201; study.csv has all." in study_page("t", ["i"], rows, 0.9)
    whole = study_page("t", ["i"], rows[:200], 0.9)
    assert "study.csv has all" not in whole
    assert whole.count("<tr>") == 201


def test_scores_that_differ_by_a_tenth_are_drawn_apart():
    """1 is an ordinary frame, and an event may stand at 1.1: drawn from 0 on both were one flat line."""
    times = np.arange(100) / 10.0
    scores = np.where(times < 5, 1.0, 1.1)
    drawn = score_over_time(
        decide(Series("a.mp4", times, scores, "default"), DeciderConfig()), times >= 5, 1.05
    )
    found = re.search(r'points="([^"]+)"', drawn)
    assert found
    heights = [float(point.partition(",")[2]) for point in found[1].split()]
    assert max(heights) - min(heights) > 90
    assert 0 <= min(heights) < max(heights) <= 128
    threshold = re.search(r'y1="([0-9.]+)"', drawn)
    assert threshold
    assert min(heights) < float(threshold[1]) < max(heights)
