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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from anomaly.errors import UsageError
from anomaly.failures import as_keys, describe, no_key
from anomaly.startup import Terminated, terminated_in_order
from anomaly.verbs import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly.verbs import Command

_OVERRIDE = re.compile(r"^[+~]{0,2}[A-Za-z_][\w./@:-]*=")
_MULTIRUN = "run once for every combination of KEY=A,B values"
_DELETION = re.compile(r"^~[A-Za-z_][\w./@]*$")
# Lists that a second one seems to add to. Hydra takes the last: what the first was to leave out would be learned, or its
# footage not be looked at.
_COLLECTED = frozenset(
    {"fit.drop", "normal_videos", "regions.black", "regions.ignore", "regions.look", "source"}
)


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing two lines and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


class _Once(argparse.Action):
    """A flag with one value. argparse takes the last of two, and what the first was to do is not done."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        earlier = getattr(namespace, self.dest, None)
        if earlier is not None:
            parser.error(f"{option_string} is given twice, {earlier!r} and {values!r}, and takes one value")
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m anomaly",
        description="Learns what normal looks like from footage of a process, and alarms on what is not.",
        epilog="Start with `python -m anomaly demo`. `python -m anomaly COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("-m", "--multirun", action="store_true", help=_MULTIRUN)
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
                action="extend" if flag.many else _Once,
            )
        sub.add_argument("-m", "--multirun", action="store_true", default=argparse.SUPPRESS, help=_MULTIRUN)
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
            (_OVERRIDE.match(argument) or _DELETION.match(argument))
            # An address may hold `/ch=1`; no key holds `://`.
            and "://" not in argument.partition("=")[0]
            and not Path(argument).exists()
        )
        (overrides if is_override else flags).append(argument)
    return flags, overrides


def to_overrides(command: Command, parsed: argparse.Namespace) -> list[str]:
    """Hydra overrides for the flags that were given."""
    from anomaly.config import quoted

    overrides = []
    for flag in (*command.positional, *command.flags):
        value: Any = getattr(parsed, flag.name)
        if value is None:
            continue
        if "" in (value if flag.many else (value,)):
            # Read as a path it is the folder that one is in: all that lies there would be learned or scored.
            raise UsageError(
                f"{flag.name} is empty; give {flag.metavar}, or see whether a variable was not set"
            )
        if flag.many:
            text = "[" + ",".join(quoted(item) for item in value) + "]"
        else:
            text = quoted(value) if flag.kind == "text" else str(value).lower()
        overrides.append(f"{flag.key}={text}")
    return overrides


def _check_kept(overrides: Sequence[str]) -> None:
    """Refuse to delete a key: Hydra leaves it out in silence, and what was set with it goes back to its usual value."""
    deletion = next((one for one in overrides if re.match(r"~(?!hydra\b)", one)), None)
    if deletion is not None:
        key = deletion.removeprefix("~").partition("=")[0]
        raise UsageError(
            f"{deletion} would delete a key, and every key is needed; set it with {key}=VALUE, or leave it out for its usual value"
        )


def _check_lists(overrides: Sequence[str]) -> None:
    """Refuse a second list of what is collected in one."""
    keys = [override.partition("=")[0].lstrip("+") for override in overrides]
    twice = next((key for key in keys if key in _COLLECTED and keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice; write one list, '{twice}=[ONE,OTHER]'")


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status: 0, 2 for bad usage, 1 for every other error."""
    flags, overrides = split_overrides(arguments)
    debug = "--debug" in flags
    name = ""
    try:
        parsed, unknown = _parser().parse_known_args(flags)
        if unknown:
            # The command's help says which there are; argparse would name that of all commands.
            which = " ".join(filter(None, ("python -m anomaly", parsed.command)))
            keys = as_keys(unknown, parsed.command or "")
            meant = f"; write {' or '.join(keys)}, without dashes" if keys else f"; see `{which} --help`"
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        if parsed.version:
            from importlib.metadata import version

            print(version("anomaly"))
            return 0
        if parsed.command is None:
            _parser().print_help()
            return 2 if overrides else 0
        name = parsed.command
        command = COMMANDS[name]
        given = [*to_overrides(command, parsed), *overrides]
        _check_kept(given)
        _check_lists(given)
        with terminated_in_order():
            _dispatch(command, given, parsed)
    except KeyboardInterrupt as stop:
        print(_stopped(name, flags), file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:
        # The reader of our output left (`| head`); pointing stdout elsewhere keeps Python quiet at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        message, status = describe(error, name)
        print(f"anomaly: {message}", file=sys.stderr)
        return status
    return 0


def _stopped(name: str, flags: Sequence[str]) -> str:
    """What is left of a command that was stopped by Ctrl-C or SIGTERM."""
    if name == "run":
        return "stopped; the events until now are kept, the same command starts from the beginning"
    if name == "score" and {"--heatmaps", "--explain"} & {flag.partition("=")[0] for flag in flags}:
        return "stopped; no CSV was written, the same command starts from the beginning"
    if name == "score":
        return "stopped; no CSV was written, the same command goes on after the files that were finished"
    if name in ("export", "bench"):
        return "stopped; the same command starts from the beginning"
    return "stopped; what was finished is kept, run the same command to go on"


def _dispatch(command: Command, overrides: list[str], parsed: argparse.Namespace) -> None:
    """Compose the configuration with Hydra and run the command on it."""
    import hydra
    from omegaconf import OmegaConf

    from anomaly.config import register

    if not any(re.match(r"^\+*profile=", override) for override in overrides) and command.name == "fit":
        overrides = [f"profile={'gpu' if nvidia_gpu_present() else 'cpu'}", *overrides]
    register()

    failures: list[Exception] = []
    swept = _swept(overrides) if parsed.multirun else set()
    jobs: list[frozenset[str]] = []
    basis = ""
    compares = parsed.multirun and command.name in ("calibrate", "study")
    if compares:
        from anomaly.commands.sweeps import jobs_of

        jobs = jobs_of(overrides)

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

        from anomaly.commands.sweeps import is_finished, record_job, unfinished

        hydra_config = HydraConfig.get()
        place, own = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
        if is_finished(place, own):
            print(f"job {hydra_config.job.num} was finished before: skipped", file=sys.stderr)
            return
        varied = [one for one in own if one.lstrip("+").partition("=")[0] in swept]
        print(f"job {hydra_config.job.num} in {place}: {' '.join(varied)}", file=sys.stderr)
        if compares:
            # The best of all jobs will be taken: each pays for all, those before it by the model's looks.
            config.also_tried += max(unfinished(place.parent, jobs) - 1, 0)
        try:
            execute(config)
        except Exception as error:
            if parsed.debug:
                raise
            print(f"anomaly: job {hydra_config.job.num}: {describe(error)[0]}", file=sys.stderr)
            record_job(place, own, describe(error), basis)
        else:
            record_job(place, own, None, basis)

    def execute(config: Any) -> None:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            names = {flag.key: flag.name for flag in (*command.positional, *command.flags)}
            wanted = ", ".join(names.get(key, f"{key}=…") for key in missing)
            raise UsageError(f"{command.name} needs {wanted}; see `python -m anomaly {command.name} --help`")
        if parsed.multirun:
            _below_job_folder(command, config)
        import importlib

        from anomaly.commands.outputs import check_outputs
        from anomaly.config.bounds import added_keys, check_bounds

        # Hydra takes a key that nobody reads where it is given with a +.
        if unread := next(added_keys(config), None):
            raise UsageError(f"configuration: {no_key(unread, command.name)}")
        settings = OmegaConf.to_object(config)
        check_bounds(settings)
        if command.name != "bank":  # which writes in place, or nothing, unless it merges
            check_outputs(
                command.flags, {flag.name: OmegaConf.select(config, flag.key) for flag in command.flags}
            )
        module = importlib.import_module(f"anomaly.commands.{command.name}")
        module.run(settings)

    if parsed.multirun:
        from anomaly.commands.sweeps import basis_of, discard_others, raise_failures, sweep_folder

        folder, overrides = sweep_folder(overrides)
        # Only shown, nothing hangs on them, and footage takes its time to be read.
        basis = "" if parsed.cfg else basis_of(command, overrides)
        if basis and (others := discard_others(folder, basis)):
            print(
                f"{others} finished jobs in {folder} were of other input files, or of another version's settings: they are done again",
                file=sys.stderr,
            )
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
        if command.name == "fit":
            print(
                f"To compare the models: python -m anomaly study --sweep {folder} --labeled LABELS",
                file=sys.stderr,
            )
        raise_failures(folder)


def _swept(overrides: Sequence[str]) -> set[str]:
    """The keys that are given several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {one.key_or_group for one in parsed if one.is_sweep_override()}


def _below_job_folder(command: Command, config: Any) -> None:
    """In a sweep, every job writes below its own folder, so that no job overwrites another's result."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    folder = Path(HydraConfig.get().runtime.output_dir)
    if command.name == "bank" and config.action != "merge":
        # Nothing is written, or the model given is changed in place.
        return
    if command.name == "calibrate" and config.out is None:
        config.out = "threshold.json"
    if command.name == "evaluate" and config.html is None:
        config.html = "evaluation.html"
    for flag in command.flags:
        value = OmegaConf.select(config, flag.key) if flag.writes else None
        if value is not None:
            place = Path(value)
            if not place.is_relative_to(folder):
                # Of a path that would leave the folder, and be the same for all jobs, the name is kept.
                place = folder / (place.name if place.is_absolute() or ".." in place.parts else place)
            OmegaConf.update(config, flag.key, str(place))


def nvidia_gpu_present() -> bool:
    """Whether an NVIDIA driver is loaded; answers without importing torch."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
