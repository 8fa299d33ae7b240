"""The command line: flags are shorthands for Hydra overrides.

A thin argparse layer turns every flag into a quoted override and hands the command to
`hydra.main`. Flags and overrides mix in any order; `-m` sweeps. Nothing heavy is imported
before it is known which command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from anomaly.errors import AnomalyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OVERRIDE = re.compile(r"^[+~]{0,2}[A-Za-z_][\w./@:-]*=")
_DELETION = re.compile(r"^~[A-Za-z_][\w./@]*$")


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
    "labels: a CSV, or a folder with good/ and one folder a kind",
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
                Flag("--precision", "precision", "fp32, fp16, bf16 or int8 (default: fp32; tensorrt: fp16)", metavar="NAME"),
            ),
            "  python -m anomaly export --model models/line1 --runtime openvino\n"
            "  python -m anomaly export --model models/line1 --runtime onnxruntime --precision int8\n"
            "  python -m anomaly score --model models/line1 --source new.mp4 --out scores.csv runtime=openvino\n",
        ),
        Command(
            "bank",
            "look into a model's memory, merge models, forget a clip",
            (
                Flag("--model", "model", "the model folder; of merge, the one to write", required=True, metavar="DIR", writes=True),
                Flag("--models", "models", "merge: the models to merge", many=True, metavar="DIR"),
                Flag("--clip", "clip", "forget: the clip, by the name that `info` shows", metavar="NAME"),
                Flag("--since", "since", "forget: all that was recorded from this time on (UTC) ...", metavar="TIME"),
                Flag("--until", "until", "forget: ... and before this one", metavar="TIME"),
                Flag("--camera", "camera", "forget: of this camera only, where clips of several are told apart", metavar="NAME"),
            ),
            "  python -m anomaly bank info --model models/line1\n"
            "  python -m anomaly bank forget --model models/line1 --clip day1.mp4\n"
            "  python -m anomaly bank forget --model models/line1 --since 2026-11-23T06:15 --until 2026-11-23T06:30\n"
            "  python -m anomaly fit --normal-videos day2 --model models/day2 projection.of=models/day1\n"
            "  python -m anomaly bank merge --models models/day1 models/day2 --model models/both size=20000\n",
            positional=(Flag("action", "action", "info, merge or forget", metavar="ACTION"),),
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


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing two lines and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m anomaly",
        description="Learns what normal looks like from footage of a process, and alarms on what is not.",
        epilog="Start with `python -m anomaly demo`. `python -m anomaly COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="examples:\n" + command.examples + "\n"
            "Everything else is an override KEY=VALUE, anywhere on the line; `--cfg job` prints all keys with their\n"
            "values, and `-m` with KEY=A,B,C runs once for each value.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for flag in command.positional:
            sub.add_argument(flag.name, nargs="?", metavar=flag.metavar, help=flag.help)
        for flag in command.flags:
            if flag.kind == "switch":
                sub.add_argument(flag.name, dest=flag.name, help=flag.help, action="store_true", default=None)
                continue
            sub.add_argument(
                flag.name,
                dest=flag.name,
                metavar=flag.metavar,
                help=flag.help,
                nargs="+" if flag.many else None,
            )
        sub.add_argument(
            "-m", "--multirun", action="store_true", help="run once for every combination of KEY=A,B values"
        )
        sub.add_argument("--cfg", choices=("job", "hydra", "all"), help="print the configuration and leave")
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
    return parser


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sort a command line into (flags and their values, Hydra overrides).

    `KEY=VALUE` is an override wherever it stands, unless a file of that very name exists.
    """
    flags: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        is_override = (
            _OVERRIDE.match(argument) is not None
            # An address may hold `/ch=1`; no key holds `://`.
            and "://" not in argument.partition("=")[0]
            and not Path(argument).exists()
        )
        (overrides if is_override or _DELETION.match(argument) else flags).append(argument)
    return flags, overrides


def to_overrides(command: Command, parsed: argparse.Namespace) -> list[str]:
    """Hydra overrides for the flags that were given."""
    from anomaly.config import quoted

    overrides = []
    for flag in (*command.positional, *command.flags):
        value: Any = getattr(parsed, flag.name)
        if value is None:
            continue
        if flag.many:
            text = "[" + ",".join(quoted(item) for item in value) + "]"
        else:
            text = quoted(value) if flag.kind == "text" else str(value).lower()
        overrides.append(f"{flag.key}={text}")
    return overrides


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status: 0, 2 for bad usage, 1 for every other error."""
    flags, overrides = split_overrides(arguments)
    debug = "--debug" in flags
    try:
        parsed = _parser().parse_args(flags)
        if parsed.version:
            from importlib.metadata import version

            print(version("anomaly"))
            return 0
        if parsed.command is None:
            _parser().print_help()
            return 2 if overrides else 0
        command = COMMANDS[parsed.command]
        _dispatch(command, [*to_overrides(command, parsed), *overrides], parsed)
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left (`| head`); pointing stdout elsewhere keeps Python quiet at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        message, status = describe(error)
        print(f"anomaly: {message}", file=sys.stderr)
        return status
    return 0


def describe(error: BaseException) -> tuple[str, int]:
    """One line for an error, and the exit status."""
    if isinstance(error, AnomalyError):
        return _one_line(str(error)), error.exit_status
    module = type(error).__module__.split(".")[0]
    if module in {"hydra", "omegaconf", "antlr4"}:
        return _one_line(_configuration_message(error)), UsageError.exit_status
    if module in {"memory_bank", "export"}:
        return _one_line(str(error)), 1
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra:
            return f"{error.name} is not installed; pip install 'anomaly[{extra}]'", 1
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename!r}" if error.filename else ""
        return (
            f"{error.strerror.lower()}{where}; free the space or fix the path, then run the command again",
            1,
        )
    return _one_line(
        f"unexpected {type(error).__name__}: {error}; run with --debug to see where, and report it"
    ), 1


_EXTRAS = {
    "torch": "train",
    "timm": "train",
    "torchvision": "train",
    "sklearn": "train",
    "matplotlib": "train",
    "faiss": "train",
    "onnxruntime": "edge",
    "openvino": "edge",
    "onnx": "export",
    "onnxscript": "export",
    "fastapi": "live",
    "uvicorn": "live",
    "argon2": "live",
    "ray": "cluster",
    "tensorrt": "tensorrt",
}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _configuration_message(error: BaseException) -> str:
    """Hydra's message without its chain of causes, with what to do next."""
    cause: BaseException = error
    while cause.__cause__ is not None and type(cause.__cause__).__module__.split(".")[0] in {
        "hydra",
        "omegaconf",
    }:
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    detail = [line.strip() for line in str(cause).splitlines() if line.strip()]
    kept = [
        line
        for line in dict.fromkeys(lines[:2] + detail[:1])
        if not line.startswith(("full_key", "object_type"))
    ]
    if any(line.startswith("Available options") for line in kept):
        kept = [kept[0], f"choose one of {', '.join(lines[lines.index(kept[1]) + 1 :])}"]
    full_key = getattr(cause, "full_key", None)
    where = f" (key {full_key})" if full_key and not any(str(full_key) in line for line in kept) else ""
    return f"configuration: {'; '.join(kept)}{where}; `--cfg job` prints the keys and their values"


def _dispatch(command: Command, overrides: list[str], parsed: argparse.Namespace) -> None:
    """Compose the configuration with Hydra and run the command on it."""
    import hydra
    from omegaconf import OmegaConf

    from anomaly.config import register

    if not any(re.match(r"^\+*profile=", override) for override in overrides) and command.name == "fit":
        overrides = [f"profile={'gpu' if nvidia_gpu_present() else 'cpu'}", *overrides]
    register()

    failures: list[Exception] = []

    def job(config: Any) -> None:
        # Hydra prints its own account of an exception; ours is one line, so none may pass through it.
        if parsed.multirun:
            sweep_job(config)
            return
        try:
            execute(config)
        except Exception as error:
            failures.append(error)

    def sweep_job(config: Any) -> None:
        # Perhaps in another process: what became of it is left in the job's folder.
        from hydra.core.hydra_config import HydraConfig

        from anomaly.commands.sweeps import is_finished, record_job

        hydra_config = HydraConfig.get()
        place, overrides = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
        if is_finished(place, overrides):
            print(f"job {hydra_config.job.num} was finished before: skipped", file=sys.stderr)
            return
        try:
            execute(config)
        except Exception as error:
            if parsed.debug:
                raise
            print(f"anomaly: job {hydra_config.job.num}: {describe(error)[0]}", file=sys.stderr)
            record_job(place, overrides, describe(error))
        else:
            record_job(place, overrides, None)

    def execute(config: Any) -> None:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            names = {flag.key: flag.name for flag in (*command.positional, *command.flags)}
            wanted = ", ".join(names.get(key, f"{key}=…") for key in missing)
            raise UsageError(f"{command.name} needs {wanted}; see `python -m anomaly {command.name} --help`")
        if parsed.multirun:
            _below_job_folder(command, config)
        import importlib

        module = importlib.import_module(f"anomaly.commands.{command.name}")
        module.run(OmegaConf.to_object(config))

    if parsed.multirun:
        from anomaly.commands.sweeps import raise_first_failure, sweep_folder

        folder, overrides = sweep_folder(overrides)
    sys.argv = [sys.argv[0], *overrides]
    if parsed.multirun:
        sys.argv.append("--multirun")
    if parsed.cfg:
        sys.argv += ["--cfg", parsed.cfg]
    # Let errors through instead of printing them Hydra's way: `run` makes one line of each.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.main(config_path="pkg://configs", config_name=command.name, version_base="1.3")(job)()
    if failures:
        raise failures[0]
    if parsed.multirun and not parsed.cfg:
        if command.name == "study":
            from anomaly.commands.study import collect_jobs

            collect_jobs(folder)
        raise_first_failure(folder)


def _below_job_folder(command: Command, config: Any) -> None:
    """In a sweep, every job writes below its own folder, so that no job overwrites another's result."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    folder = Path(HydraConfig.get().runtime.output_dir)
    if command.name == "calibrate" and config.out is None:
        config.out = "threshold.json"
    for flag in command.flags:
        value = OmegaConf.select(config, flag.key) if flag.writes else None
        if value is not None:
            OmegaConf.update(config, flag.key, str(folder / value))


def nvidia_gpu_present() -> bool:
    """Whether an NVIDIA driver is loaded; answers without importing torch."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
