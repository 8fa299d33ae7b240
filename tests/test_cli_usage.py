"""Flags and overrides in any order, and every misuse told in one line with exit status 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clips import texture, write_clip
from small_model import FIT, FPS, Done, SmallModel, invoke, process, succeed

from anomaly.config import SCHEMAS


def refused(*arguments: object, status: int = 2) -> str:
    done = invoke(*arguments)
    assert done.status == status
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    return done.message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], ["'nonsense'", "fit"]),
        (["fit", "--nonsense", "x"], ["--nonsense"]),
        (["fit", "--mod", "x"], ["--mod"]),
        (["fit", "--model"], ["--model", "expected one argument"]),
        (["fit", "--normal-videos", "--model", "m"], ["--normal-videos", "at least one"]),
        (["fit", "--model", "m"], ["fit needs --normal-videos", "--help"]),
        (["fit"], ["--model", "--normal-videos"]),
        (["score", "--model", "m", "--source", "x"], ["score needs --out"]),
        (["score", "--model", "m", "--source", "", "--out", "o"], ["--source is empty; give PATH"]),
        (["fit", "--model", "", "--normal-videos", "x"], ["--model is empty; give DIR"]),
        (["fit", "--normal-videos", "x", "--model", "m", "--except", "a", "--except", "b"], ["--except is given twice", "'a'", "'b'"]),
        (["fit", "--normal-videos", "x", "--model", "m", "fit.drop=[a@0-1]", "fit.drop=[b@0-1]"], ["fit.drop is given twice", "'fit.drop=[ONE,OTHER]'"]),
        (["fit", "--normal-videos", "x", "--model", "m", "normal_videos=[y]"], ["normal_videos is given twice"]),
        (["calibrate", "--model", "m", "--labeled", "l", "--confidence", "1"], ["calibration.confidence=1.0", "below 1"]),
        (["calibrate", "--model", "m", "-m", "profile=glob(*)"], ["glob(*)", "list the values"]),
        (["calibrate", "--model", "m"], ["--labeled"]),
        (["weights"], ["action"]),
        (["weights", "dance"], ["'dance'", "list, pull, import or verify"]),
        (["weights", "pull"], ["efficientnet_lite0"]),
        (["fit", "--normal-videos", "x", "--model", "m", "bank.sise=3"], ["no key 'bank.sise'", "did you mean bank.size?"]),
        (["fit", "--normal-videos", "x", "--model", "m", "+bank.sise=3"], ["no key 'bank.sise'", "did you mean bank.size?"]),
        (["fit", "--normal-videos", "x", "--model", "m", "~bank.size"], ["~bank.size would delete a key", "bank.size=VALUE"]),
        (["calibrate", "--model", "m", "--labeled", "l", "~decider"], ["~decider would delete a key"]),
        (["score", "--model", "m", "--source", "x", "--out", "o", "+fsp=3"], ["score has no key 'fsp'"]),
        (["score", "--model", "m", "--source", "x", "--out", "s", "fsp=3"], ["score has no key 'fsp'"]),
        (["score", "--model", "m", "--source", "x", "--out", "s", "fps=3"], ["did you mean footage.fps?"]),
        (["score", "--model", "m", "--source", "x", "--out", "s", "bank=3"], ["score has no key 'bank'"]),
        (["fit", "--normal-videos", "x", "--model", "m", "bank=3"], ["bank is a group", "bank.size"]),
        (["fit", "--normal-videos", "x", "--model", "m", "fit.drop=clip@0-3"], ["write 'fit.drop=[clip@0-3]'"]),
        (["fit", "--normal-videos", "x", "--model", "m", "fit.drop=[a,b"], ["fit.drop=[a,b cannot be read", "close all"]),
        (["fit", "--normal-videos", "x", "--model", "m", "nothing=3"], ["nothing"]),
        (["fit", "--normal-videos", "x", "--model", "m", "bank.size=many"], ["many", "bank.size", "nteger"]),
        (["fit", "--normal-videos", "x", "--model", "m", "fit.fps=[1,2]"], ["fit.fps"]),
        (["fit", "--normal-videos", "x", "--model", "m", "seed=null"], ["seed"]),
        (["fit", "--normal-videos", "x", "--model", "m", "bank.size=1,2"], ["bank.size=1,2", "add -m", "'bank.size=[1,2]'"]),
        (["fit", "--normal-videos", "x", "--model", "m", "bank.size='1"], ["bank.size"]),
        (["fit", "--normal-videos", "x", "--model", "m", "backbone=resnet"], ["backbone/resnet", "dinov2_vits14", "efficientnet_lite0"]),
        (["fit", "--normal-videos", "x", "--model", "m", "profile=tpu"], ["profile/tpu", "cpu", "gpu"]),
        (["calibrate", "--model", "m", "--labeled", "l", "--target-recall", "high"], ["calibration.target_recall", "high"]),
        (["run", "--model", "m", "--source", "x", "run.opacity=thick"], ["run.opacity", "thick"]),
    ],
)  # fmt: skip
def test_misuse_is_one_line_that_names_what_was_wrong(
    arguments: list[str], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    message = refused(*arguments)
    for part in told:
        assert part in message
    for misleading in ("+", "hydra", "Config search path", "viable"):
        assert misleading not in message
    assert not list(tmp_path.iterdir())


def test_a_flag_of_several_values_can_be_repeated():
    """The first camera of `--source A --source B` was watched by nobody, without a word."""
    printed = succeed("run", "--model", "m", "--source", "a", "b", "--source", "c", "--cfg", "job")
    assert "source:\n- a\n- b\n- c\n" in printed


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("fit.holdout=1.5", "fit.holdout=1.5"),
        ("footage.on_error=ignore", "skip or refuse"),
        ("backbone.input_size=[96]", "[height, width]"),
        ("backbone.input_size=[90,160]", "multiples of 16"),
        ("backbone.layers=[2,99]", "backbone.layers [2, 99]"),
        ("fit.drop=[normal_01.mp4]", "clip@start-end"),
        ("fit.drop=[nowhere.mp4@1-2]", "'nowhere.mp4'"),
        ("fit.drop=[normal_01.mp4@5-2]", "ends before it starts"),
        ("regions.look=[[[0,0],[1,1]]]", "regions.look"),
        ("fit.fps=0", "fps"),
        ("fit.fps=-2", "fps"),
        ("bank.size=0", "bank.size"),
        ("bank.radius=-1", "bank.radius"),
        ("projection.dims=0", "projection.dims"),
        ("projection.sample_frames=0", "projection.sample_frames"),
        ("projection.shrinkage=2", "projection.shrinkage"),
        ("projection.level=-1", "projection.level"),
        ("fit.guard_s=-1", "fit.guard_s"),
        ("device=cuda:99", "device"),
        ("device=abacus", "device"),
    ],
)
def test_a_value_out_of_range_is_one_line(override: str, told: str, small_model: SmallModel, tmp_path: Path):
    done = invoke(
        "fit", "--normal-videos", small_model.footage.normal, "--model", tmp_path / "m", *FIT, override
    )
    assert done.status in (1, 2)
    assert told in done.message
    assert "unexpected" not in done.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("labels.unlisted=some", "labels.unlisted"),
        ("labels.count=day", "labels.count"),
        ("labels.slack_s=-1", "slack_s"),
        ("decider.leave_ratio=2", "decider.leave_ratio"),
        ("calibration.target_recall=1.2", "calibration.target_recall"),
        ("calibration.confidence=1", "calibration.confidence"),
        ("calibration.false_alarms_per_hour=-1", "false_alarms_per_hour"),
    ],
)
def test_a_calibration_setting_out_of_range_is_one_line(
    override: str, told: str, small_model: SmallModel, tmp_path: Path
):
    shutil.copytree(small_model.folder, tmp_path / "m")
    before = (tmp_path / "m/thresholds/torch-fp32.json").read_bytes()
    footage = small_model.footage
    done = invoke(
        "calibrate",
        "--model",
        tmp_path / "m",
        "--labeled",
        footage.labeled_csv,
        "--videos",
        footage.labeled,
        FPS,
        override,
    )
    assert done.status == 2
    assert told in done.message
    assert (tmp_path / "m/thresholds/torch-fp32.json").read_bytes() == before


def scored(done: Done, out: Path) -> list[str]:
    assert done.status == 0, done.err
    return out.read_text().splitlines()


def test_flags_and_overrides_mix_in_any_order(small_model: SmallModel, tmp_path: Path):
    source, model = small_model.footage.test / "test_01.mp4", small_model.folder
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    one = invoke("score", "footage.fps=2", "--source", source, "device=cpu", "--out", first, "--model", model)
    two = invoke(
        "score", "--model", model, "--out", second, "--source", source, "footage.fps=2", "device=cpu"
    )
    assert scored(one, first) == scored(two, second)
    assert len(first.read_text().splitlines()) == 17


def test_the_last_of_two_overrides_counts_and_a_flag_may_be_written_as_one(
    small_model: SmallModel, tmp_path: Path
):
    out = tmp_path / "s.csv"
    source = small_model.footage.test / "test_01.mp4"
    done = invoke(
        "score",
        f"model={small_model.folder}",
        f"source=[{source}]",
        f"out={out}",
        "footage.fps=5",
        "footage.fps=1",
    )
    assert len(scored(done, out)) == 9


def test_paths_with_every_special_character_work_from_fit_to_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / 'a=b, [it\'s] "x" ${HOME} $y \\z; (ü)'
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    write_clip(folder / "day=1, ${x}.mp4", texture(12, (64, 96)))
    write_clip(tmp_path / "day=2.mp4", texture(12, (64, 96)))
    model = folder / "m'o\\del"
    succeed(
        "fit", "--normal-videos", folder, "day=2.mp4", "--model", model, *FIT, "bank.size=50", "fit.fps=2"
    )
    out = folder / "scores, 'all'.csv"
    succeed("score", "--source", "day=2.mp4", folder / "day=1, ${x}.mp4", "--model", model, "--out", out, FPS)
    assert {line.split(",")[0] for line in out.read_text().splitlines()[1:]} == {"day=2.mp4", '"day=1'}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "day=2.mp4"])


def test_a_sweep_runs_every_job_and_tells_which_failed(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    out = "out=${hydra:runtime.output_dir}/s.csv"
    source = f"source=[{small_model.footage.test / 'test_01.mp4'}]"
    done = invoke("score", "-m", "--model", small_model.folder, source, out, "footage.fps=2,1,0")
    assert done.status == 2
    assert "anomaly: job 2: " in done.err
    for job, fps in enumerate((2, 1, 0)):  # which is which is told: what differs, and nothing else
        (told,) = [line for line in done.err.splitlines() if line.startswith(f"job {job} in ")]
        assert told.endswith(f"/{job}: footage.fps={fps}")
    lengths = {path.parent.name: len(path.read_text().splitlines()) for path in tmp_path.rglob("s.csv")}
    assert lengths == {"0": 17, "1": 9}


def test_no_job_of_a_sweep_writes_over_the_result_of_another(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nor over what lies where the path points, or beside the model."""
    monkeypatch.chdir(tmp_path)
    model = shutil.copytree(small_model.folder, tmp_path / "models" / "line")
    (tmp_path / "figures.json").write_text("mine")
    footage = small_model.footage
    succeed(
        "evaluate", "--model", model, "--labeled", footage.test_csv, "--videos", footage.test, FPS,
        "--json", tmp_path / "figures.json", "hydra.sweep.dir=sweep", "-m", "labels.tolerance_s=0.5,1",
    )  # fmt: skip
    assert (tmp_path / "figures.json").read_text() == "mine"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["line"]
    for job in ("0", "1"):
        found = sorted(path.name for path in (tmp_path / "sweep" / job).iterdir())
        assert found == ["evaluation.html", "figures.json", "job.json"]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_does_not_stop_a_sweep(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", texture(12, (64, 96)))
    (tmp_path / "clips" / "b.mp4").symlink_to("/proc/self/mem")
    done = invoke(
        "score", "--model", small_model.folder, "--source", "clips", "--out", "out", "-m", "footage.fps=5,10",
        "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.err.count("b.mp4 cannot be read (Input/output error)") == 2


def test_a_sweep_is_done_again_where_its_footage_or_labels_are_others(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    footage = small_model.footage
    shutil.copytree(footage.test, "test")
    shutil.copy(footage.test_csv, "test/labels.csv")
    shutil.copytree(small_model.folder, "model")
    sweep = ("evaluate", "--model", "model", "--labeled", "test/labels.csv", "--json", "f.json", "hydra.sweep.dir=sweep",
             FPS, "-m", "labels.tolerance_s=0.5,1")  # fmt: skip

    def skipped() -> list[bool]:
        done = invoke(*sweep)
        assert done.status == 0, done.err
        assert ("2 finished jobs in sweep were of other input files" in done.err) is (
            "skipped" not in done.err and found
        )
        return [f"job {number} was finished before" in done.err for number in range(2)]

    found = False
    assert skipped() == [False, False]
    found = True
    assert skipped() == [True, True]
    shutil.copy(footage.labeled / "labeled_01.mp4", "test/test_01.mp4")
    assert skipped() == [False, False]
    assert skipped() == [True, True]
    labels = Path("test/labels.csv")
    labels.write_text(labels.read_text().replace("spill", "oil"))
    assert skipped() == [False, False]


def test_cfg_prints_the_configuration_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    printed = succeed("fit", "--normal-videos", "a,b.mp4", "--model", "m", "--cfg", "job", "bank.size=7")
    assert "size: 7" in printed
    assert "- a,b.mp4" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_command_composes_its_configuration(command: str):
    assert succeed(command, "--cfg", "job")


def test_no_traceback_without_debug_and_one_with_it(tmp_path: Path):
    calm = process("score", "--model", "none", "--source", tmp_path, "--out", "s.csv", cwd=tmp_path)
    assert (calm.status, len(calm.err.splitlines())) == (1, 1)
    assert "Traceback" not in calm.err
    debug = process(
        "--debug", "score", "--model", "none", "--source", tmp_path, "--out", "s.csv", cwd=tmp_path
    )
    assert debug.status == 1
    assert "Traceback" in debug.err
    assert "NoFootageError" in debug.err


def test_a_sweep_over_a_group_by_pattern_runs_where_nothing_is_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = invoke("fit", "--normal-videos", "nowhere", "--model", "m", "-m", "backbone=glob(efficientnet*)")
    assert done.status == 1
    assert "job 0: nowhere does not exist" in done.err


def test_the_remedy_of_an_error_of_the_system_fits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("score", "--model", "m", "--source", "x", "--out", "s" * 300)
    assert done.status == 1
    assert "too long" in done.message
    assert "give a shorter name" in done.message


def test_a_sweep_may_be_asked_for_before_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("-m", "bank.size=1,2", "fit", "--normal-videos", "nowhere", "--model", "m")
    assert done.status == 1
    assert "job 1: nowhere does not exist" in done.err


@pytest.mark.parametrize(("columns", "width"), [("", 160), ("90", 90)])
def test_piped_tables_are_as_wide_as_asked_and_not_filled_with_blanks(
    columns: str, width: int, tmp_path: Path
):
    done = process("weights", "list", cwd=tmp_path, COLUMNS=columns)
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    assert any("mobilenetv3" in line for line in lines)


def test_a_flag_that_a_command_does_not_have_is_told_with_that_commands_help():
    assert invoke("evaluate", "--out", "x").message == (
        "unrecognized arguments: --out x; see `python -m anomaly evaluate --help`"
    )
    assert invoke("--outt", "x").message.endswith("see `python -m anomaly --help`")


def test_a_setting_that_is_given_as_a_flag_is_told_as_it_is_written():
    """As `export` takes --runtime, and nothing else does."""
    files = ("--model", "m", "--source", "x", "--out", "s.csv")
    assert invoke("score", *files, "--runtime", "openvino").message == (
        "unrecognized arguments: --runtime openvino; write runtime=openvino, without dashes"
    )
    assert "write frames=5, without dashes" in invoke("bench", "--model", "m", "--frames=5").message
    wanted = "write footage.fps=2 or fit.fps=2, without dashes"
    assert wanted in invoke("fit", "--normal-videos", "x", "--model", "m", "--fps", "2").message
