"""The command line: subcommands over the stage modules. Imports nothing heavy before it must.

Any field of an experiment can be set by its dotted name: `--loss.consistency 10`. Exit codes: 0 done; 1 ran
and something failed (or `--check` found a difference); 2 wrong usage, configuration or data, before anything
ran; 130 interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from amsrc.errors import BenchError, ConfigError, unknown
from bench import ROOT, options
from bench.options import Parser, experiment_of, home_of, overrides, results_of, root_of
from bench.progress import epoch_line, progress
from bench.specs import is_toy
from bench.storage import place

ABOUT = """AMSRC, video anomaly detection by appearance-motion consistency, measured on UCSD Ped2, CUHK Avenue
and ShanghaiTech. Every stage reads what the one before wrote; running a command again goes on where it stopped."""

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
    _no_shadowing()
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
        print(f"\ninterrupted; nothing finished is lost. To go on:\n  amsrc-bench {shlex.join(argv)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `amsrc-bench ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _no_shadowing() -> None:
    """Run as `python bench/x.py`, Python puts bench/ first on the path, where `datasets` would hide others' modules."""
    here = ROOT / "bench"
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]


def _dispatch(argv: list[str]) -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="amsrc-bench", description=ABOUT, epilog=EXAMPLES, formatter_class=layout, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add, run, help_text) in COMMANDS.items():
        add(
            commands.add_parser(
                name, help=help_text, description=run.__doc__, formatter_class=layout, allow_abbrev=False
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
    """Check a copy of a data set against what is known of it, or download it."""
    from bench import datasets, fetch

    _no_overrides(changes)
    if args.action == "fetch":
        print(f"{args.dataset} lies in {fetch.fetch(args.dataset, root_of(args))}")
        return 0
    checks = datasets.verify(args.dataset, root_of(args), args.partial)
    print(datasets.table(checks))
    failed = sum(not check.ok for check in checks)
    if failed:
        hint = "" if args.partial else " A subset of the videos is accepted with --partial."
        print(f"error: {args.dataset}: {failed} of {len(checks)} checks failed.{hint}", file=sys.stderr)
    return 2 if failed else 0


def prepare(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Cut the cubes of a data set's videos, one Ray task a video; finished videos are skipped."""
    experiment, _ = experiment_of(args, changes)
    from bench import prepare as stage
    from bench.cache import verify

    experiment, sources = stage.with_providers(experiment, stage.Sources(root_of(args)), args.boxes, args.flow)
    if args.preview:
        stage.draw(experiment, sources, args.preview, partial=args.partial)
        print(f"drawn: {args.preview}")
        return 0
    store = stage.prepare(experiment, sources, home_of(args), partial=args.partial, progress=progress())
    if args.verify:
        verify(store.path)
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in stage.summary(store).items())
    print(f"{store.path}\n{counts}{' (partial)' if store.manifest['partial'] else ''}; sha256 {store.sha256[:12]}")
    return 0


def train(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Train one cell, or go on from its last checkpoint."""
    experiment, fixed = experiment_of(args, changes)
    if experiment.method != "amsrc":
        raise ConfigError(f"{experiment.recipe} trains nothing; run `amsrc-bench evaluate` with the same options.")
    from bench import cluster
    from bench import prepare as stage
    from bench import train as training

    store, experiment = stage.find_store(home_of(args), experiment, fixed)
    if args.workers.most > 1:
        cluster.connect()
        with cluster.shared([home_of(args)], [store.path] if store.origin == store.path else []) as probe:
            cluster.check_nodes(probe)
    folder = training.fit(experiment, store, home_of(args), workers=args.workers, report=epoch_line)
    print(f"trained: {folder}")
    return 0


def evaluate(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Score one trained cell, measure it and write its record."""
    experiment, fixed = experiment_of(args, changes)
    from bench import evaluate as stage
    from bench.prepare import find_store
    from bench.records import path_of

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
    from bench import tables as stage

    _no_overrides(changes)
    results = results_of(args)
    if args.check:
        stale = stage.check(results, args.readme)
        for name in stale:
            print(f"stale: {name}", file=sys.stderr)
        if stale:
            again = f"amsrc-bench tables --results {results}{f' --readme {args.readme}' if args.readme else ''}"
            print(f"Run `{again}` and commit what it writes.", file=sys.stderr)
        return 1 if stale else 0
    for path in stage.write(results, args.readme):
        if path.name.endswith(".md") and path.parent.name == "tables":
            print(path.read_text())
    return 0


OF_ONE_RUN = ("recipe", "seed", "videos", "root", "boxes", "flow", "labels")
"""Options of `figures` that say nothing of the records."""


def figures(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Draw what the records suffice for; and of one evaluated run its predictions, features, frames and boxes."""
    if args.dataset:
        from bench import pictures

        written = pictures.run(args, changes)
    elif of_one := [name for name in OF_ONE_RUN if getattr(args, name) not in (None, "")]:
        raise ConfigError(f"--{of_one[0]} needs --dataset: it is of one run.")
    else:
        _no_overrides(changes)
        from bench import gallery

        written = gallery.draw(results_of(args))
    print(f"{len(written)} files written: {written[0].parent}, ...")
    return 0


def report(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Make one HTML page of all results: opens anywhere, asks no server for anything."""
    _no_overrides(changes)
    from bench import report as stage

    logged: Mapping[str, str] = {}
    if args.home or args.mlflow:
        from bench.storage import beside
        from bench.tracking import open_tracker

        logged = open_tracker(beside(home_of(args)), args.mlflow).logged()
    page, size = stage.write(results_of(args), place(args.out, "--out"), logged)
    print(f"{page} ({size / 1e6:.1f} MB)")
    return 0


def ls(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """List records, searches, recipes (and all fields of one) or cube stores; and how to open MLflow."""
    from bench import listing

    if args.what == "recipes":
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
    """Say what this machine has and what is missing: versions, cores, GPUs, memory, disk, data sets."""
    from bench import listing

    _no_overrides(changes)
    text, fine = listing.doctor(home_of(args), args.root or os.environ.get("AMSRC_DATA"))
    print(text)
    return 0 if fine else 1


def sweep(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """The main job. Finished cells are never run again; the same command goes on after any end.

    matrix: recipes x data sets x seeds. search: Optuna proposes loss weights, each trial is judged under a rule.
    """
    from bench import sweep as stage

    return stage.run(args, changes)


def speed(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Measure every stage on this machine, by one worker and by two; the plan of a sweep reads what it writes."""
    from bench import speed as stage

    _no_overrides(changes)
    stage.run(args.out, args.quick)
    return 0


def watch(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Score any video with a trained run; write it with boxes, score and alarms, and a table of its frames.

    The run needs its weights and `evaluate`'s scores under --home; no label is used. Frames are scored at the height of
    the run's data set and drawn at their own; grey where that data set is. The threshold is a quantile of the scores of
    training frames, which the network has seen: unseen normal frames alarm somewhat more often. Fields of `score` and
    `cube.boxes` may be set, such as --score.weight_p 1.
    """
    from bench import watch as stage
    from bench.trained import find_run

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
        raise ConfigError(f"--{next(iter(changes))}: this command has no experiment to change.")


COMMANDS: dict[
    str,
    tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, dict[str, str]], int], str],
] = {
    "data": (options.add_data, data, "verify or fetch a data set"),
    "prepare": (options.add_prepare, prepare, "videos -> cube store"),
    "train": (options.add_train, train, "cube store -> trained network"),
    "evaluate": (options.add_evaluate, evaluate, "trained network -> record"),
    "tables": (options.add_tables, tables, "records -> Table 1 and Table 2"),
    "figures": (options.add_figures, figures, "records -> figures; a run's pixels -> its own"),
    "report": (options.add_report, report, "results -> one HTML page"),
    "ls": (options.add_ls, ls, "list records, recipes or stores"),
    "doctor": (options.add_doctor, doctor, "look at this machine"),
    "sweep": (options.add_sweep, sweep, "the main job: all of it, for many cells, or a search"),
    "watch": (options.add_watch, watch, "any video -> the video with boxes, score and alarms"),
    "speed": (options.add_speed, speed, "how fast this machine is"),
}
