"""The command line: subcommands over the stage modules. Imports nothing heavy before it must.

Any field of an experiment can be set by its dotted name: `--loss.consistency 10`. Exit codes: 0 done; 1 ran
and something failed (or `--check` found a difference); 2 wrong usage, configuration or data, before anything
ran; 130 interrupted, the same command resumes.
"""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from amsrc.errors import BenchError, ConfigError, unknown
from bench.cli import options
from bench.cli.options import Parser, experiment_of, home_of, overrides, results_of, root_of
from bench.cli.progress import epoch_line, progress
from bench.cli.sweep_options import add_sweep, sweep_options
from bench.experiment.specs import is_toy
from bench.storage.places import Place, local_folder, place

ABOUT = """AMSRC, video anomaly detection by appearance-motion consistency, measured on UCSD Ped2, CUHK Avenue
and ShanghaiTech. Every stage reads what the previous one wrote; the same command resumes an interrupted one."""

EXAMPLES = """examples:
  amsrc-bench data verify --dataset ped2 --root ~/data
  amsrc-bench prepare  --dataset ped2 --root ~/data --boxes motion --preview cubes.png
  amsrc-bench train    --recipe amsrc --dataset ped2 --seed 0 --loss.consistency 10
  amsrc-bench evaluate --recipe amsrc --dataset ped2 --seed 0 --loss.consistency 10
  amsrc-bench sweep    --recipes amsrc,no-gate-add,baseline --datasets ped2 --seeds 3 --root ~/data
  amsrc-bench sweep    search --datasets ped2 --over loss.consistency,train.learning_rate --trials 20 --root ~/data
  amsrc-bench sweep    --toy --dry-run
  amsrc-bench tables   --check
  amsrc-bench watch    --video street.avi --run 3f2a --out street.mp4
  amsrc-bench figures  --recipe amsrc --dataset ped2 --root ~/data
  amsrc-bench report   --out report

Any configuration field is an option by its dotted name; `amsrc-bench ls recipes` lists them with their values.
`--debug` shows where in the program an error arose.
Exit codes: 0 done, 1 something failed while running, 2 wrong usage or data before anything ran, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        return _dispatch([word for word in argv if word != "--debug"])
    except BenchError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted; nothing finished is lost. To resume:\n  amsrc-bench {shlex.join(argv)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `amsrc-bench ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(argv: list[str]) -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="amsrc-bench", description=ABOUT, epilog=EXAMPLES, formatter_class=layout, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add, run, help_text) in COMMANDS.items():
        add(
            commands.add_parser(
                name, help=help_text, description=inspect.getdoc(run), formatter_class=layout, allow_abbrev=False
            )
        )
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise ConfigError(unknown("command", argv[0], list(COMMANDS)))
    rest, changes = overrides(argv)
    args, unknown_words = parser.parse_known_args(rest)
    if unknown_words:
        raise ConfigError(f"unknown argument {unknown_words[0]!r}. See `amsrc-bench {args.command} --help`.")
    _, run, _ = COMMANDS[args.command]
    return run(args, changes)


# -- commands: (arguments, run) ------------------------------------------------------------------------------


def data(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Verify a local copy of a data set (layout, counts, labels), or download it."""
    from bench.data import datasets, download

    _no_overrides(changes)
    if args.action == "fetch":
        print(f"{args.dataset} is in {download.fetch(args.dataset, root_of(args))}")
        return 0
    checks = datasets.verify(args.dataset, root_of(args), args.partial)
    print(datasets.table(checks))
    failed = sum(not check.ok for check in checks)
    if failed:
        hint = "" if args.partial else " A subset of the videos is accepted with --partial."
        print(f"error: {args.dataset}: {failed} of {len(checks)} checks failed.{hint}", file=sys.stderr)
    return 2 if failed else 0


def prepare(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Extract the cubes of a data set's videos, one Ray task a video; finished videos are skipped."""
    experiment, _ = experiment_of(args, changes)
    from bench.data import datasets, stores
    from bench.data import prepare as stage
    from bench.storage.node_cache import verify

    sources = stores.Sources.of(root_of(args), args.boxes, args.flow)
    experiment = replace(experiment, partial=datasets.find(args.dataset, sources.root, args.partial).partial)
    if args.preview:
        stage.draw(experiment, sources, args.preview)
        print(f"drawn: {args.preview}")
        return 0
    store = stage.prepare(experiment, sources, home_of(args), progress=progress())
    if args.verify:
        verify(store.path)
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in stores.summary(store).items())
    print(f"{store.path}\n{counts}{' (partial)' if store.manifest['partial'] else ''}; sha256 {store.sha256[:12]}")
    return 0


def train(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Train one run, or resume it from its last checkpoint."""
    experiment, fixed = experiment_of(args, changes)
    _ = experiment.learned_method  # refuses what has nothing to train
    from bench.cluster import connect
    from bench.data.stores import find_store
    from bench.training import launch as training

    store, experiment = find_store(home_of(args), experiment, fixed)
    if args.workers.most > 1:
        connect.connect()
        with connect.shared([home_of(args)], [store.path] if store.origin == store.path else []) as probe:
            connect.check_nodes(probe)
    folder = training.fit(experiment, store, home_of(args), workers=args.workers, report=epoch_line)
    print(f"trained: {folder}")
    return 0


def evaluate(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Score one trained run, compute its metrics and write its record."""
    experiment, fixed = experiment_of(args, changes)
    from bench.data.stores import find_store
    from bench.evaluation import evaluate as stage
    from bench.records.records import path_of

    store, experiment = find_store(home_of(args), experiment, fixed)
    results = results_of(args, toy=is_toy(args.dataset))
    record = stage.evaluate(experiment, store, home_of(args), results)
    for name, value in record.metrics.items():
        print(f"{name:>18}  {_figure(value)}")
    print(f"record: {path_of(results, record)}")
    if args.smoothing:
        print(f"smoothing: {stage.study_smoothing(experiment, store, home_of(args), results, record)}")
    return 0


def _figure(value: int | float | list[float] | None) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_figure, value))}]"
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def tables(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Make Table 1 and Table 2 from the records, in Markdown, LaTeX and CSV."""
    from bench.tables import tables as stage

    _no_overrides(changes)
    results = results_of(args)
    if args.check:
        stale = stage.check(results, args.readme)
        for name in stale:
            print(f"out of date: {name}", file=sys.stderr)
        if stale:
            again = f"amsrc-bench tables --results {results}{f' --readme {args.readme}' if args.readme else ''}"
            print(f"Run `{again}` and commit what it writes.", file=sys.stderr)
        return 1 if stale else 0
    for path in stage.write(results, args.readme):
        if path.name.endswith(".md") and path.parent.name == "tables":
            print(path.read_text())
    return 0


OF_ONE_RUN = ("recipe", "seed", "videos", "root", "boxes", "flow", "labels")
"""Options of `figures` that concern a single run."""


def figures(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Plot the results; with --dataset also qualitative figures of one run: predictions, features, frames, boxes."""
    if args.dataset:
        written = _figures_of_run(args, changes)
    elif of_one := [name for name in OF_ONE_RUN if getattr(args, name) not in (None, "")]:
        raise ConfigError(f"--{of_one[0]} needs --dataset: it concerns a single run.")
    else:
        _no_overrides(changes)
        from bench.figures import files

        written = files.draw(results_of(args))
    print(f"{len(written)} files written: {written[0].parent}, ...")
    return 0


def _figures_of_run(args: argparse.Namespace, changes: dict[str, str]) -> list[Place]:
    """All figures of the run that the options name; its pictures also go to its run in MLflow, if it has one."""
    experiment, fixed = experiment_of(args, changes)
    from bench.data import datasets
    from bench.data.stores import find_store
    from bench.data.toy import embedded
    from bench.experiment.config import fingerprint
    from bench.figures import run as stage
    from bench.tracking.runs import open_tracker

    home, toy = home_of(args), is_toy(args.dataset)
    rendered = embedded(home)
    root = rendered if toy and not args.root and rendered.is_dir() else root_of(args)
    store, experiment = find_store(home, experiment, fixed)
    dataset = datasets.find(args.dataset, root, experiment.partial)
    videos = [name for name in args.videos.split(",") if name]
    written = stage.draw(experiment, store, dataset, home, results_of(args, toy), videos)
    pictures = {path.name: path.read_bytes() for path in written if path.name.endswith(".png")}
    open_tracker(local_folder(home)).add_figures(fingerprint(experiment), pictures)
    return written


def report(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Make one self-contained HTML page of all results; it needs no server."""
    _no_overrides(changes)
    from bench.page import report as stage

    logged: Mapping[str, str] = {}
    if args.home or args.mlflow:
        from bench.tracking.runs import open_tracker

        logged = open_tracker(local_folder(home_of(args)), args.mlflow).logged()
    page, size = stage.write(results_of(args), place(args.out, "--out"), logged)
    print(f"{page} ({size / 1e6:.1f} MB)")
    return 0


def ls(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """List records, searches, recipes (and all fields of one) or cube stores, or what each key of a record means."""
    from bench.cli import listing

    if args.what == "schema":
        from bench.cli.schema_text import schema

        _no_overrides(changes)
        print(schema(), end="")
    elif args.what == "recipes":
        print(listing.recipes(experiment_of(args, changes)[0]))
    else:
        _no_overrides(changes)
        home, results = home_of(args), results_of(args)
        if args.what == "stores":
            print(listing.stores(home))
        else:
            print((listing.searches if args.what == "searches" else listing.records)(results, home))
    return 0


def doctor(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Check this machine: versions, cores, GPUs, memory, disk, data sets."""
    from bench.cli import listing

    _no_overrides(changes)
    text, fine = listing.doctor(home_of(args), args.root or os.environ.get("AMSRC_DATA"))
    print(text)
    return 0 if fine else 1


def sweep(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Run many experiments. Finished runs are never repeated; the same command resumes an interrupted sweep.

    matrix: recipes x data sets x seeds. search: Optuna proposes settings, a selection rule scores each trial.
    """
    value = sweep_options(args, changes)
    from bench.sweeps import run as stage

    return stage.run(value, progress)


def speed(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Benchmark every stage on this machine, with one worker and with two; sweeps estimate hours from the result."""
    from bench.speed import run as stage

    _no_overrides(changes)
    stage.run(args.out, args.quick)
    return 0


def watch(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Score any video with a trained run; write it annotated with boxes, score and alarms, and a CSV of its frames.

    The run must be trained and evaluated under --home; no label is used. Frames are scored at the height of the run's
    data set, in grey where it is grey, and drawn at their own size. The threshold is a quantile of the scores of
    training frames, which the network has seen: unseen normal frames alarm somewhat more often. Fields of `score` and
    `cube.boxes` may be set, such as --score.weights 0,1.
    """
    from bench.records.find import find_run
    from bench.video import watch as stage

    home = home_of(args)
    run = find_run(args.run, home, [results_of(args), home / "toy-results"])
    video, out = args.video.expanduser(), args.out.expanduser()
    request = stage.Request(
        video=video,
        out=out,
        csv=(args.csv or out.with_suffix(".csv")).expanduser(),
        overwrite=args.overwrite,
        boxes=args.boxes,
        flow=args.flow,
        scale=args.scale,
        rate=args.fps,
        quantile=args.quantile,
        threshold=args.threshold,
    )
    print(stage.report(stage.watch(run, request, changes, lambda verb: progress(verb, "frames")), request))
    return 0


def _no_overrides(changes: dict[str, str]) -> None:
    if changes:
        raise ConfigError(f"--{next(iter(changes))}: this command takes no configuration fields.")


COMMANDS: dict[
    str,
    tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, dict[str, str]], int], str],
] = {
    "data": (options.add_data, data, "verify or fetch a data set"),
    "prepare": (options.add_prepare, prepare, "videos -> cube store"),
    "train": (options.add_train, train, "cube store -> trained network"),
    "evaluate": (options.add_evaluate, evaluate, "trained network -> record"),
    "tables": (options.add_tables, tables, "records -> Tables 1 to 3 and selection rules"),
    "figures": (options.add_figures, figures, "plot results; with --dataset also one run's qualitative figures"),
    "report": (options.add_report, report, "results -> one HTML page"),
    "ls": (options.add_ls, ls, "list records, searches, recipes, stores or keys"),
    "doctor": (options.add_doctor, doctor, "check this machine"),
    "sweep": (add_sweep, sweep, "the main job: prepare, train and evaluate many runs, or a search"),
    "watch": (options.add_watch, watch, "score any video: boxes, anomaly score, alarms"),
    "speed": (options.add_speed, speed, "benchmark this machine"),
}
