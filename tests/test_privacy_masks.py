"""What lies under a privacy mask is nowhere: two recordings that differ only there come to the same, byte for byte."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import write_clip
from small_model import FIT, FPS, invoke, process, succeed

from anomaly.conveyor import ConveyorFootage
from anomaly.footage.source import find_sources, read_frame_at, read_frames
from anomaly.privacy import PrivacyMask

#: The upper left corner, and a triangle whose sides cross pixels.
BLACK = "regions.black=[[[0,0],[0.3,0],[0.3,0.4],[0,0.4]],[[0.8,0.55],[0.99,0.97],[0.7,0.9]]]"
POLYGONS = (((0.0, 0.0), (0.3, 0.0), (0.3, 0.4), (0.0, 0.4)), ((0.8, 0.55), (0.99, 0.97), (0.7, 0.9)))


def somebody_in(clip: Path, out: Path, seed: int) -> None:
    """A copy without loss in which, under the masks, somebody moves who is another one for another seed."""
    random = np.random.default_rng(seed)
    covered = np.zeros((96, 160, 3), np.uint8)
    covered[:] = 255
    PrivacyMask(POLYGONS).paint(covered)
    with av.open(str(out), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "bgr0"
        for frame in read_frames(find_sources([clip])[0], fps=5):
            somebody = cv2.resize(random.integers(0, 256, (12, 20, 3), np.uint8), (160, 96))
            image = np.where(covered == 0, somebody, frame.image)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts = round(frame.pts_s * 5)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def recorded(footage: ConveyorFootage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with the same footage but for what is under the masks."""
    folders = tuple(tmp_path_factory.mktemp(name) for name in ("one", "other"))
    for seed, folder in enumerate(folders):
        for room in ("normal", "labeled", "test"):
            (folder / room).mkdir()
            for clip in sorted((footage.folder / room).glob("*.mp4"))[:4]:
                somebody_in(clip, folder / room / f"{clip.stem}.mkv", seed)
        rows = footage.labeled_csv.read_text().replace(".mp4", ".mkv").splitlines()
        held = {path.name for path in (folder / "labeled").iterdir()}
        (folder / "labeled.csv").write_text(
            "\n".join(row for row in rows if row.startswith("video,") or row.split(",")[0] in held) + "\n"
        )
    return folders[0], folders[1]


def made_of(folder: Path, *masks: str) -> dict[str, bytes]:
    """All that the program makes of a recording, but for the digests of the recording's own files."""
    succeed("fit", "--normal-videos", folder / "normal", "--model", folder / "m", *FIT, *masks)
    succeed(
        "calibrate", "--model", folder / "m", "--labeled", folder / "labeled.csv", "--videos", folder / "labeled",
        "--target-recall", 0.5, FPS,
    )  # fmt: skip
    out = folder / "out"
    succeed(
        "score", "--model", folder / "m", "--source", folder / "test", "--out", out / "s.csv", "--heatmaps",
        out / "heat", "--explain", out / "why", FPS,
    )  # fmt: skip
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mkv"]
    told = {".safetensors", ".npz", ".jpg", ".png", ".csv"}
    kept = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.suffix in told}
    review = (folder / "m_fit_review.html").read_text()
    # Pictures on the page are written into it.
    kept["review"] = "".join(part.split('"')[0] for part in review.split("data:image/")[1:]).encode()
    return kept


def test_nothing_of_what_is_under_a_mask_comes_out(recorded: tuple[Path, Path]):
    one, other = (made_of(folder, BLACK) for folder in recorded)
    assert len(one["review"]) > 1000
    assert any("evidence" in name for name in one)
    assert any(name.startswith("out/heat") for name in one)
    assert any(name.startswith("out/why") for name in one)
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []

    under_flags_alone(recorded[0], recorded[0] / "m")


def under_flags_alone(recorded: Path, model: Path) -> None:
    """A camera that is named by flags is recorded under the model's masks, and is what the model was certified for."""
    frames = read_frames(find_sources([recorded / "test" / "test_01.mkv"])[0], fps=5)
    clip = write_clip(recorded / "camera.mp4", [frame.image for frame in islice(frames, 15)], fps=5)
    done = process(
        "run", "--model", model, "--source", clip, "--out", recorded / "live", "run.live=true", "run.metrics=null",
        "run.log=text", FPS, cwd=recorded,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "other privacy masks" not in done.out + done.err
    pieces = find_sources([recorded / "live" / "recording"])
    for frame in (frame for piece in pieces for frame in read_frames(piece)):
        assert frame.image[4:34, 4:44].max() < 40
        assert frame.image[4:34, 60:].max() > 100


def test_the_two_recordings_differ_under_the_masks(recorded: tuple[Path, Path]):
    """Else the test above would prove nothing."""
    one, other = (next(read_frames(find_sources([folder / "normal"])[0])).image for folder in recorded)
    assert (one[:38, :48] != other[:38, :48]).mean() > 0.9
    assert (one[:38, 60:] == other[:38, 60:]).all()


def test_frames_are_black_however_they_are_read(recorded: tuple[Path, Path], tmp_path: Path):
    (source,) = find_sources([recorded[0] / "test" / "test_01.mkv"], POLYGONS)
    picture = tmp_path / "picture.png"
    first = next(iter(read_frames(source)))
    cv2.imwrite(str(picture), np.full((96, 160, 3), 200, np.uint8))
    (still,) = find_sources([picture], POLYGONS)
    for frame in (first, read_frame_at(source, 2.0), read_frame_at(still, 0.0), *read_frames(still)):
        assert frame.image[:38, :48].max() == 0
        assert frame.image[85, 125].max() == 0
        assert frame.image[60:70, 60:70].max() > 0


@pytest.mark.parametrize(
    ("polygon", "inside", "outside"),
    [
        # A star drawn without lifting the pen, corners that were given in the wrong order, and a ring.
        (
            [[0.5, 0.05], [0.76, 0.86], [0.07, 0.36], [0.93, 0.36], [0.24, 0.86]],
            [[0.5, 0.5], [0.5, 0.1], [0.3, 0.4]],
            [[0.5, 0.95], [0.1, 0.1]],
        ),
        ([[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]], [[0.15, 0.5], [0.85, 0.5]], [[0.5, 0.2], [0.5, 0.8]]),
        (
            [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9], [0.1, 0.1],
             [0.3, 0.3], [0.3, 0.7], [0.7, 0.7], [0.7, 0.3], [0.3, 0.3]],
            [[0.5, 0.5], [0.2, 0.5]],
            [[0.05, 0.5]],
        ),
        # Twice around, along the border of the picture.
        (
            [[0.1, 0.1], [1, 0.1], [1, 1], [0.1, 1], [0.1, 0.1], [0.3, 0.3], [1, 0.3], [1, 1], [0.3, 1], [0.3, 0.3]],
            [[0.9, 0.5], [0.5, 0.9], [0.99, 0.99]],
            [[0.05, 0.5]],
        ),
    ],
    ids=["star", "corners", "ring", "border"],
)  # fmt: skip
def test_a_mask_covers_all_that_it_goes_around(polygon: list, inside: list, outside: list):
    image = np.full((100, 200, 3), 255, np.uint8)
    PrivacyMask([polygon]).paint(image)
    assert [image[round(100 * y), round(200 * x)].max() for x, y in inside] == [0] * len(inside)
    assert [image[round(100 * y), round(200 * x)].min() for x, y in outside] == [255] * len(outside)


def test_masks_leave_free_what_lies_between_them():
    image = np.full((100, 200, 3), 255, np.uint8)
    sides = ((0.2, 0.2, 0.8, 0.3), (0.2, 0.7, 0.8, 0.8), (0.2, 0.2, 0.3, 0.8), (0.7, 0.2, 0.8, 0.8))
    PrivacyMask([[[a, b], [c, b], [c, d], [a, d]] for a, b, c, d in sides]).paint(image)
    assert image[50, 100].min() == 255
    assert (image == 0).mean() > 0.2


def test_a_mask_that_is_none_is_told(recorded: tuple[Path, Path], tmp_path: Path):
    done = invoke(
        "fit", "--normal-videos", recorded[0] / "normal", "--model", tmp_path / "m", *FIT, "regions.black=[[[0,0],[50,0],[50,40]]]"
    )  # fmt: skip
    assert done.status == 2
    assert "regions.black polygon 1 has a point [50, 0] outside 0..1" in done.message
