"""Site files: what they say, what is refused, and the one that is shipped as an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from small_model import ROOT

from anomaly.edge.notify import MqttSettings, PeopleSettings, WebhookSettings
from anomaly.edge.notify.site_file import sinks_of
from anomaly.edge.site import load_site, site_of
from anomaly.errors import SourceError, UsageError

EXAMPLE = ROOT / "configs" / "sites" / "example.yaml"


def write(folder: Path, **changes: Any) -> Path:
    """A site of one camera, changed."""
    (folder / "model").mkdir(exist_ok=True)
    camera = {"name": "line", "source": "clip.mp4", "model": "model", **changes.pop("camera", {})}
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump({"cameras": [camera], **changes}))
    return path


def test_the_example_says_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("FILLER_PASSWORD", "MQTT_PASSWORD", "MES_KEY"):
        monkeypatch.setenv(name, "a canary that nothing shows")
    monkeypatch.setenv("SHIFT_MAIL", "mailto://user:canary@plant.example")
    for name in ("line", "bottle", "can", "packer"):
        (tmp_path / "models" / name).mkdir(parents=True)
    path = tmp_path / "site.yaml"
    path.write_bytes(EXAMPLE.read_bytes())
    site = load_site(path)
    assert (site.site, site.line) == ("plant north", "line 3")
    filler, packer = site.cameras
    assert filler.address.shown == "rtsp://filler.plant.example/stream1"
    assert filler.model == tmp_path / "models/line"
    assert filler.recipes["can"] == tmp_path / "models/can"
    assert (filler.recipe, filler.fps, filler.record) == ("bottle", 10.0, True)
    assert filler.black[0][1] == (0.25, 0.0)
    assert (filler.regions.look[0][2], filler.regions.ignore[0][2]) == ((0.9, 0.9), (0.9, 0.3))
    assert packer.regions.everything
    # 2026-11-23 is a Monday; 22:30 UTC is 23:30 in Berlin.
    assert filler.schedule.state_at(1_795_473_000.0) == "maintenance"
    assert (packer.address.kind, packer.fps, packer.record, packer.recipe) == ("v4l2", 5.0, False, "")
    assert packer.schedule.state_at(1_795_473_000.0) == "running"
    assert [type(sink) for sink in sinks_of(site.document["sinks"])] == [
        MqttSettings, WebhookSettings, PeopleSettings,
    ]  # fmt: skip
    assert "canary" not in repr(site)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path, camera={"loop": True, "fps": None})
    monkeypatch.chdir("/")
    (camera,) = load_site(path).cameras
    assert camera.address.path == str(tmp_path / "clip.mp4")
    assert (camera.loop, camera.fps, camera.record) == (True, None, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera": {"color": 1}}, "camera line: color is not known"),
        ({"colour": 1}, "colour is not known"),
        ({"camera": {"name": "../up"}}, "cameras[0].name='../up' is no name"),
        ({"camera": {"name": ".."}}, "is no name"),
        ({"camera": {"name": "x" * 65}}, "is no name"),
        ({"camera": {"name": 7}}, "is no name"),
        ({"camera": {"model": "gone"}}, "camera line: model=gone is no folder"),
        ({"camera": {"model": None}}, "camera line: model=None names no model"),
        ({"camera": {"recipes": {"a": "gone"}}}, "camera line: recipes.a=gone is no folder"),
        ({"camera": {"recipe": "b"}}, "camera line: recipe='b' is not among its recipes"),
        ({"camera": {"source": "ftp://host/x"}}, "camera line: source: ftp://"),
        ({"camera": {"source": None}}, "camera line: source is missing"),
        ({"camera": {"fps": 0}}, "camera line: fps=0 is no number above 0"),
        ({"camera": {"record": "yes"}}, "camera line: record='yes'"),
        ({"camera": {"black": [[[0, 0], [1, 1]]]}}, "camera line: black is no list of polygons"),
        ({"camera": {"black": [[[0, 0], [1, 1], [2, 0]]]}}, "camera line: black is no list of polygons"),
        ({"camera": {"regions": [[0, 0]]}}, "camera line: regions=[[0, 0]] is no mapping"),
        ({"camera": {"regions": {"see": []}}}, "camera line: regions: see is not known; give look, ignore"),
        ({"camera": {"regions": {"look": [[[0, 0], [1, 1]]]}}}, "line: regions.look polygon 1 has 2 points"),
        (
            {"camera": {"regions": {"ignore": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}}},
            "line: regions leave nothing",
        ),
        ({"camera": {"regions": {"mask": "gone.png"}}}, "camera line: regions.mask"),
        ({"camera": {"schedule": [{"state": "asleep"}]}}, "camera line: schedule[0].state='asleep'"),
        ({"timezone": "Mars/Olympus"}, "'Mars/Olympus' is not known"),
        ({"cameras": []}, "cameras is missing or no list"),
        ({"cameras": ["rtsp://user:canary@host/a"]}, "cameras[0] is no mapping"),
        ({"camera": {"source": "rtsp://user:canary@host/a"}}, "holds a password"),
        ({"sinks": "canary"}, "sinks is no mapping"),
    ],
)
def test_errors_name_camera_and_key_in_one_line(tmp_path: Path, changes: dict[str, Any], words: str):
    with pytest.raises(UsageError) as raised:
        load_site(write(tmp_path, **changes))
    assert words in str(raised.value)
    assert "canary" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mask_image_lies_beside_the_site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = np.zeros((10, 20), np.uint8)
    image[:, 10:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), image)
    path = write(tmp_path, camera={"regions": {"mask": "mask.png"}})
    monkeypatch.chdir("/")
    (camera,) = load_site(path).cameras
    assert camera.regions.patch_mask(2, 4).tolist() == [[False, False, True, True]] * 2


def test_two_cameras_of_one_name_are_refused(tmp_path: Path):
    camera = {"name": "line", "source": "clip.mp4", "model": "model"}
    with pytest.raises(UsageError, match="two cameras of the name line"):
        load_site(write(tmp_path, cameras=[camera, camera]))


@pytest.mark.parametrize(
    "text",
    ["a: [", "- 1", "", "secret: 'canary\nx", "fps: 2024-13-45", "a: " + "[" * 600 + "]" * 600],
    ids=["open", "list", "empty", "quote", "no date", "deep"],
)
def test_a_file_that_is_none_is_refused_without_quoting_it(tmp_path: Path, text: str):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"site\.yaml") as raised:
        load_site(path)
    assert "canary" not in str(raised.value)
    with pytest.raises(UsageError, match="cannot be read"):
        load_site(tmp_path / "gone.yaml")


def test_flags_alone_make_a_site_with_names_of_its_own(tmp_path: Path):
    sources = ["rtsp://host/a", "/clips/test 01.mp4", "/other/test 01.mkv", "/dev/video0"]
    site = site_of(sources, tmp_path, fps=5.0, record=False)
    assert [camera.name for camera in site.cameras] == ["camera1", "test-01", "test-01-2", "camera4"]
    assert site.document == {}
    named = site_of(sources[:2], tmp_path, fps=None, record=True, names=["a", "b"])
    assert [camera.name for camera in named.cameras] == ["a", "b"]
    with pytest.raises(UsageError, match="one name a source"):
        site_of(sources, tmp_path, fps=None, record=True, names=["a"])
    with pytest.raises(SourceError):
        site_of(["ftp://host/a"], tmp_path, fps=None, record=True)
