"""The verbs of the command line, and the flags that stand for configuration keys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A flag of a command and the configuration key it stands for.

    Attributes:
        name: as typed, with its dashes.
        key: the configuration key.
        help: one line.
        many: takes one or more values.
        required: the command cannot do without it.
        metavar: how the value is called in the help.
        kind: "text" is quoted for Hydra, "number" goes through as it is, "switch" takes no value.
        writes: names something the command writes; in a sweep each job writes below its own folder.
    """

    name: str
    key: str
    help: str
    many: bool = False
    required: bool = False
    metavar: str = "PATH"
    kind: str = "text"
    writes: bool = False


@dataclass(frozen=True)
class Command:
    """One verb of the command line."""

    name: str
    summary: str
    flags: tuple[Flag, ...]
    examples: str
    positional: tuple[Flag, ...] = ()


_MODEL = Flag("--model", "model", "the model folder", required=True, metavar="DIR")
_LABELED = Flag(
    "--labeled",
    "labeled",
    "labels: a CSV (columns found, camera, group where needed: clips of one group show one incident and count once), "
    "or a folder with good/ and one folder a kind (\"labels.group='(part[0-9]+)_'\" groups its pictures by name)",
    required=True,
    metavar="LABELS",
)
_VIDEOS = Flag(
    "--videos", "videos", "folder of the videos that LABELS names (default: where LABELS lies)", metavar="DIR"
)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "fit",
            "learn what is normal from footage in which nothing is wrong",
            (
                Flag("--normal-videos", "normal_videos", "videos, images, folders of either, or globs", many=True, required=True),
                Flag("--model", "model", "where to write the model folder", required=True, metavar="DIR", writes=True),
                Flag("--except", "except_labels", "learn from everything outside these labelled intervals", metavar="LABELS"),
                _VIDEOS,
            ),
            "  python -m anomaly fit --normal-videos footage/normal --model models/line1\n"
            "  python -m anomaly fit --normal-videos day1.mp4 day2.mp4 --model models/line1 bank.size=20000 fit.fps=2\n"
            "  python -m anomaly fit --normal-videos day1.mp4 --model models/line1 'fit.drop=[day1.mp4@61-75]'\n",
        ),
        Command(
            "calibrate",
            "set the threshold from a few labelled anomalies, with a recall it can defend",
            (
                _MODEL,
                _LABELED,
                _VIDEOS,
                Flag("--target-recall", "calibration.target_recall", "share of the anomalies to come that must be caught", metavar="0..1", kind="number"),
                Flag("--confidence", "calibration.confidence", "how sure that must be", metavar="0..1", kind="number"),
                Flag("--report", "report", "the page to read and sign (default: beside the model folder)", metavar="FILE", writes=True),
                Flag("--out", "out", "write the threshold to this file and leave the model as it is", metavar="FILE", writes=True),
                Flag("--check", "check", "score the model's evidence again: does the certificate hold on this machine?", kind="switch"),
            ),
            "  python -m anomaly calibrate --model models/line1 --labeled labels.csv\n"
            "  python -m anomaly calibrate --model models/line1 --labeled labels.csv --videos clips --target-recall 0.9\n"
            "  python -m anomaly calibrate --model models/line1 --labeled labels.csv calibration.threshold=1.8\n"
            "  python -m anomaly calibrate --model models/line1 --check\n",
        ),
        Command(
            "evaluate",
            "measure a calibrated model on other labelled footage",
            (
                _MODEL,
                _LABELED,
                _VIDEOS,
                Flag("--json", "json", "write the figures as one flat JSON object", metavar="FILE", writes=True),
                Flag("--html", "html", "write a page with pictures (default: beside the model folder)", metavar="FILE", writes=True),
            ),
            "  python -m anomaly evaluate --model models/line1 --labeled test.csv --json figures.json\n",
        ),
        Command(
            "study",
            "compare thousands of decider settings on scores that are there already",
            (
                Flag("--model", "model", "a calibrated model folder", metavar="DIR"),
                Flag("--sweep", "sweep", "instead: compare the models that a sweep of `fit` left below this folder", metavar="DIR"),
                Flag("--labeled", "labeled", "with --sweep: labels to compare the models on", metavar="LABELS"),
                _VIDEOS,
                Flag("--target-recall", "calibration.target_recall", "share of the anomalies to come that must be caught", metavar="0..1", kind="number"),
                Flag("--out", "out", "folder for table and plot (default: beside the model folder)", metavar="DIR", writes=True),
            ),
            "  python -m anomaly study --model models/line1\n"
            "  python -m anomaly study --model models/line1 'study.grid={smoothing_s:[0,0.5,1],min_duration_s:[0,0.5]}' study.apply=true\n"
            "  python -m anomaly study --model models/line1 -m calibration.target_recall=0.9,0.95 decider.min_duration_s=0,0.5\n"
            "  python -m anomaly fit --normal-videos day1 --model model -m bank.size=2000,15000 hydra/launcher=joblib hydra.sweep.dir=sweep\n"
            "  python -m anomaly study --sweep sweep --labeled labels.csv\n",
        ),
        Command(
            "score",
            "write a score for every frame, and heatmaps if asked",
            (
                _MODEL,
                Flag("--source", "source", "videos, images, folders of either, or globs", many=True, required=True),
                Flag("--out", "out", "the CSV to write: source,frame,time_s,score,decision_score,alarm", required=True, metavar="FILE", writes=True),
                Flag("--heatmaps", "heatmaps", "also write a picture with the heatmap for every frame", metavar="DIR", writes=True),
                Flag("--explain", "explain", "also write, for each alarm, the frame beside the normal patches most like it", metavar="DIR", writes=True),
            ),
            "  python -m anomaly score --model models/line1 --source new.mp4 --out scores.csv\n"
            "  python -m anomaly score --model models/line1 --source new.mp4 --out scores.csv --explain explained\n",
        ),
        Command(
            "run",
            "watch footage (annotated video, events.jsonl) or cameras (events, clips, page), until it is stopped",
            (
                Flag("--model", "model", "the model folder", metavar="DIR"),
                Flag("--source", "source", "videos, images, folders, globs; or cameras: rtsp://, http://, /dev/videoN", many=True, metavar="URI"),
                Flag("--site", "site", "a file that names cameras, their models, schedules and sinks", metavar="FILE"),
                Flag("--serve", "serve", "serve the operator's page and the API there", metavar="HOST:PORT"),
                Flag("--scrape-token", "run.scrape_token", "whoever sends this token may read /metrics on this machine: ${env:NAME} or ${file:/path}", metavar="REFERENCE"),
                Flag("--out", "out", "folder for what it writes (default: outputs/run)", metavar="DIR", writes=True),
            ),
            "  python -m anomaly run --model models/line1 --source new.mp4 --out outputs/line1\n"
            "  python -m anomaly run --model models/line1 --source 'rtsp://watch:${env:CAMERA_PASSWORD}@10.0.0.5/stream' --serve 127.0.0.1:8080\n"
            "  python -m anomaly run --site site.yaml --out /var/lib/anomaly --serve 127.0.0.1:8080\n",
        ),
        Command(
            "record",
            "record a camera, without re-encoding: the footage that `fit` needs",
            (
                Flag("--source", "source", "rtsp://, http://, /dev/videoN, or a file that is played at its own speed", required=True, metavar="URI"),
                Flag("--out", "out", "folder for the footage", required=True, metavar="DIR", writes=True),
                Flag("--hours", "hours", "how long (default: 8)", metavar="HOURS", kind="number"),
            ),
            "  python -m anomaly record --source rtsp://camera.local/stream --out footage --hours 8\n"
            "  python -m anomaly record --source 'rtsp://user:${env:CAMERA_PASSWORD}@10.0.0.5/stream' --out footage\n",
        ),
        Command(
            "check",
            "look at a camera or a file: codec, rate, keyframes, sharpness, flicker, and what to set right",
            (
                Flag("--shortest", "shortest", "also tell the sampling rate that an anomaly of so many seconds needs", metavar="SECONDS", kind="number"),
                Flag("--json", "json", "write the findings as JSON", metavar="FILE", writes=True),
            ),
            "  python -m anomaly check rtsp://camera.local/stream --shortest 0.5\n"
            "  python -m anomaly check footage/day1.mp4 check.seconds=30 --json day1.json\n",
            positional=(Flag("source", "source", "a camera's address, or a video file", metavar="SOURCE"),),
        ),
        Command(
            "export",
            "turn a model into a graph that runs without torch, compared with torch and certified at once",
            (
                _MODEL,
                Flag("--runtime", "runtime", "onnxruntime, openvino or tensorrt", required=True, metavar="NAME"),
                Flag("--precision", "precision", "fp32, fp16, bf16, int8 or fp8 (default: fp32; tensorrt: fp16)", metavar="NAME"),
            ),
            "  python -m anomaly export --model models/line1 --runtime openvino\n"
            "  python -m anomaly export --model models/line1 --runtime onnxruntime --precision int8\n"
            "  python -m anomaly score --model models/line1 --source new.mp4 --out scores.csv runtime=openvino\n",
        ),
        Command(
            "bank",
            "look into a model's memory, add footage to it, merge models, forget a clip",
            (
                Flag("--model", "model", "the model folder; of merge, the one to write", required=True, metavar="DIR", writes=True),
                Flag("--normal-videos", "normal_videos", "add: footage of normal work to learn as well; the model's own settings hold", many=True),
                Flag("--models", "models", "merge: the models to merge", many=True, metavar="DIR"),
                Flag("--clip", "clip", "forget: the clip, by the name that `info` shows", metavar="NAME"),
                Flag("--since", "since", "forget: all that was recorded from this time on (UTC) ...", metavar="TIME"),
                Flag("--until", "until", "forget: ... and before this one", metavar="TIME"),
                Flag("--camera", "camera", "forget: of this camera only, where clips of several are told apart", metavar="NAME"),
            ),
            "  python -m anomaly bank info --model models/line1\n"
            "  python -m anomaly bank add --model models/line1 --normal-videos day2\n"
            "  python -m anomaly bank add --model models/line1 --normal-videos day2 size=30000\n"
            "  python -m anomaly bank forget --model models/line1 --clip day1.mp4\n"
            "  python -m anomaly bank forget --model models/line1 --since 2026-11-23T06:15 --until 2026-11-23T06:30\n"
            "  python -m anomaly fit --normal-videos day2 --model models/day2 projection.of=models/day1\n"
            "  python -m anomaly bank merge --models models/day1 models/day2 --model models/both size=20000\n",
            positional=(Flag("action", "action", "info, add, merge or forget", metavar="ACTION"),),
        ),
        Command(
            "bench",
            "measure latency, throughput and memory in every runtime the model can run in here",
            (
                _MODEL,
                Flag("--source", "source", "footage to decode (default: the pictures of the model's evidence)"),
                Flag("--json", "json", "write the figures as JSON", metavar="FILE", writes=True),
                Flag("--plot", "plot", "draw the stages of each runtime (PNG)", metavar="FILE", writes=True),
            ),
            "  python -m anomaly bench --model models/line1\n"
            "  python -m anomaly bench --model models/line1 --source new.mp4 --json bench.json --plot bench.png frames=200\n",
        ),
        Command(
            "weights",
            "list, pull, import and verify backbone weights",
            (),
            "  python -m anomaly weights list\n"
            "  python -m anomaly weights pull dinov2_vits14\n"
            "  python -m anomaly weights import dinov2_vits14 dinov2_vits14_pretrain.pth\n"
            "  python -m anomaly weights verify\n",
            positional=(
                Flag("action", "action", "list, pull, import or verify", metavar="ACTION"),
                Flag("network", "network", "the backbone's name", metavar="NAME"),
                Flag("file", "file", "the file to import", metavar="FILE"),
            ),
        ),
        Command(
            "users",
            "who may sign in at the page and use the API: list, add, passwd, role, remove, token, revoke",
            (
                Flag("--store", "store", "the folder that `run` writes to (default: outputs/run)", metavar="DIR"),
                Flag("--role", "role", "viewer, operator, engineer or admin", metavar="ROLE"),
                Flag("--password-file", "password_file", "read the password from this file (default: ask at the terminal)", metavar="FILE"),
                Flag("--label", "label", "token: what it is for", metavar="TEXT"),
                Flag("--scopes", "scopes", "token: live, events, review, control, metrics, admin", many=True, metavar="SCOPE"),
                Flag("--days", "days", "token: until it expires (default: never)", metavar="DAYS", kind="number"),
            ),
            "  python -m anomaly users add NAME --role admin\n"
            "  python -m anomaly users passwd NAME\n"
            "  python -m anomaly users token NAME --role viewer --scopes metrics --label prometheus\n"
            "  python -m anomaly users revoke 0123456789abcdef\n",
            positional=(
                Flag("action", "action", "list, add, passwd, role, remove, token or revoke", metavar="ACTION"),
                Flag("name", "name", "the account; of revoke, the token's id", metavar="NAME"),
            ),
        ),
        Command(
            "demo",
            "the whole chain on built-in footage",
            (
                Flag("--out", "out", "folder for footage, model and pictures (default: demo)", metavar="DIR", writes=True),
            ),
            "  python -m anomaly demo\n",
        ),
    )
}  # fmt: skip
