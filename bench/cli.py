"""The command line: subcommands over the stage modules. Imports nothing heavy before it must.

Any field of an experiment can be set by its dotted name: `--loss.consistency 10`. Exit codes: 0 done; 1 ran
and something failed (or `--check` found a difference); 2 wrong usage, configuration or data, before anything
ran; 130 interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from amsrc.errors import BenchError, ConfigError
from bench.config import TOY, Experiment, override, unknown
from bench.storage import Place, place

if TYPE_CHECKING:
    from bench.plan import Workers

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
Exit codes: 0 done, 1 something failed while running, 2 wrong usage or data before anything ran, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    """argparse, with errors in this program's form."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See `{self.prog} --help`.")


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


def run_stage(command: str) -> NoReturn:
    """What `python bench/<command>.py ...` does: the command of that name, then exit."""
    raise SystemExit(main([command, *sys.argv[1:]]))


def _no_shadowing() -> None:
    """Run as `python bench/x.py`, Python puts bench/ first on the path, where `datasets` would hide others' modules."""
    here = Path(__file__).resolve().parent
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


def overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The fields among the words of a command: `x --a.b 1 --c.d=2` as (["x"], {"a.b": "1", "c.d": "2"}).

    Raises:
        ConfigError: a field without a value.
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            rest.append(word)
            continue
        text = value if equals else next(words, None)
        if text is None:
            raise ConfigError(f"{word} needs a value.")
        found[name] = text
    return rest, found


def home_of(args: argparse.Namespace) -> Place:
    """`--home`, or $AMSRC_HOME, or ~/.cache/amsrc-bench."""
    return place(args.home or os.environ.get("AMSRC_HOME") or "~/.cache/amsrc-bench", "--home")


def results_of(args: argparse.Namespace, toy: bool = False) -> Place:
    """`--results`, or $AMSRC_RESULTS, or `results`; where the home is in an object store, in it.

    Records of toy data never go there by themselves, but into `toy-results` under the home.
    """
    if given := args.results or (None if toy else os.environ.get("AMSRC_RESULTS")):
        return place(given, "--results")
    home = home_of(args) if "home" in args else None
    if home is not None and (toy or not isinstance(home, Path)):
        return home / ("toy-results" if toy else "results")
    return Path("results").absolute()


def root_of(args: argparse.Namespace) -> Path:
    """`--root` or $AMSRC_DATA.

    Raises:
        ConfigError: neither is given.
    """
    given = args.root or os.environ.get("AMSRC_DATA")
    if not given:
        raise ConfigError("where the data lies is not known: pass --root DIR or set AMSRC_DATA.")
    return Path(given).expanduser().absolute()


def experiment_of(args: argparse.Namespace, changes: dict[str, str]) -> tuple[Experiment, set[str]]:
    """The experiment that the options name, and the fields they fix."""
    from bench.recipes import build

    changes = dict(changes)
    for option in ("boxes", "flow"):
        if given := getattr(args, option, None):
            changes[f"cube.{option}.provider"] = given.partition(":")[0]
    if labels := getattr(args, "labels", None):
        changes["label_set"] = labels
    experiment = override(build(getattr(args, "recipe", "amsrc"), args.dataset, getattr(args, "seed", 0)), changes)
    return experiment, set(changes)


# -- commands: (arguments, run) ------------------------------------------------------------------------------


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def workers(text: str) -> Workers:
    """Data-parallel workers: a number, or `LEAST:MOST`."""
    from bench.plan import Workers

    return Workers.read(text)


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def above_zero(text: str) -> float:
    """A number above 0."""
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number


def _dataset_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--dataset", required=True, help="ped2, avenue, shanghaitech, or toy-ped2 and so on")
    p.add_argument("--root", metavar="DIR", help="folder of the data set, or one that holds it (default: $AMSRC_DATA)")


def _home_option(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--home",
        metavar="DIR",
        help="work folder, or s3://BUCKET/PREFIX (default: $AMSRC_HOME or ~/.cache/amsrc-bench)",
    )


def _provider_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--boxes", metavar="KIND", help="motion, onnx:FILE, torchvision, or file:DIR/boxes_{split}.npz")
    p.add_argument("--flow", metavar="KIND", help="dis, farneback, raft, or file:DIR")


def _results_option(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--results",
        metavar="DIR",
        help="records and tables, likewise (default: $AMSRC_RESULTS or results; toy: in the home)",
    )


def _labels_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--labels", metavar="SET", help="label set: official (default) or intervals (avenue)")


def _cell_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--recipe", default="amsrc", help="row of the tables (default: amsrc; `amsrc-bench ls recipes`)")
    p.add_argument("--dataset", required=True, help="ped2, avenue, shanghaitech, or toy-ped2 and so on")
    p.add_argument("--seed", type=int, default=0)
    _home_option(p)
    _provider_options(p)


def _data_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("action", choices=["verify", "fetch"], help="check a copy thoroughly, or download one")
    _dataset_options(p)
    p.add_argument("--partial", action="store_true", help="accept a subset of the videos")


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


def _prepare_arguments(p: argparse.ArgumentParser) -> None:
    _dataset_options(p)
    _home_option(p)
    _provider_options(p)
    p.add_argument("--partial", action="store_true", help="accept a subset of the videos")
    p.add_argument("--preview", metavar="FILE.png", type=Path, help="only draw some frames, boxes, flow and cubes")
    p.add_argument("--verify", action="store_true", help="afterwards read every byte and compare it with the manifest")


def prepare(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Cut the cubes of a data set's videos, one Ray task a video; finished videos are skipped."""
    experiment, _ = experiment_of(args, changes)
    from bench import prepare as stage
    from bench.cache import open_store

    experiment, sources = stage.with_providers(experiment, stage.Sources(root_of(args)), args.boxes, args.flow)
    if args.preview:
        stage.draw(experiment, sources, args.preview, partial=args.partial)
        print(f"drawn: {args.preview}")
        return 0
    store = stage.prepare(experiment, sources, home_of(args), partial=args.partial, progress=progress())
    if args.verify:
        open_store(store.path).verify()
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in stage.summary(store).items())
    print(f"{store.path}\n{counts}{' (partial)' if store.manifest['partial'] else ''}; sha256 {store.sha256[:12]}")
    return 0


def _workers_option(p: argparse._ActionsContainer) -> None:
    about = "data-parallel workers of a training; 1:4 takes what there is, as nodes come and go (default: 1)"
    p.add_argument("--workers", type=workers, default="1", metavar="N", help=about)


def _train_arguments(p: argparse.ArgumentParser) -> None:
    _cell_options(p)
    _workers_option(p)


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


def _evaluate_arguments(p: argparse.ArgumentParser) -> None:
    _cell_options(p)
    _labels_option(p)
    _results_option(p)
    p.add_argument(
        "--smoothing", action="store_true", help="also measure what each smoothing alone is worth on this run's scores"
    )


def evaluate(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Score one trained cell, measure it and write its record."""
    experiment, fixed = experiment_of(args, changes)
    from bench import evaluate as stage
    from bench.prepare import find_store
    from bench.records import path_of

    store, experiment = find_store(home_of(args), experiment, fixed)
    results = results_of(args, toy=args.dataset.startswith(TOY))
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


def _tables_arguments(p: argparse.ArgumentParser) -> None:
    _results_option(p)
    p.add_argument("--readme", metavar="FILE", type=Path, help="also put Table 1 between this file's markers")
    p.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")


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


def _figures_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--dataset", help="also what needs pixels and network, of the run on this data set")
    p.add_argument("--recipe", help="of that run (default: amsrc)")
    p.add_argument("--seed", type=int, default=0, help="of that run")
    p.add_argument("--videos", default="", metavar="NAMES", help="for the anomaly curves (default: the paper's)")
    p.add_argument("--root", metavar="DIR", help="folder of the data set, or one that holds it (default: $AMSRC_DATA)")
    _home_option(p)
    _provider_options(p)
    _labels_option(p)
    _results_option(p)


def figures(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Draw what the records suffice for; and of one evaluated run its predictions, features, frames and boxes."""
    if args.dataset:
        from bench import pictures

        written = pictures.run(args, changes)
    elif args.recipe or args.videos:
        raise ConfigError(f"--{'recipe' if args.recipe else 'videos'} needs --dataset: it is of one run.")
    else:
        _no_overrides(changes)
        from bench import gallery

        written = gallery.draw(results_of(args))
    print(f"{len(written)} files written: {written[0].parent}, ...")
    return 0


def _report_arguments(p: argparse.ArgumentParser) -> None:
    _results_option(p)
    p.add_argument("--out", metavar="DIR", default="report", help="where the page goes (default: report)")
    p.add_argument("--home", metavar="DIR", help="work folder whose MLflow store is asked for the runs of the records")
    p.add_argument("--mlflow", metavar="URI", help="or the server that has them")


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


def _ls_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="?", choices=["records", "searches", "recipes", "stores"], default="records")
    p.add_argument("--recipe", default="amsrc", help="for `recipes`: whose fields to list")
    p.add_argument("--dataset", default="ped2", help="for `recipes`: on which data set")
    _home_option(p)
    _results_option(p)


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


def _doctor_arguments(p: argparse.ArgumentParser) -> None:
    _home_option(p)
    p.add_argument("--root", metavar="DIR", help="data folder to look at (default: $AMSRC_DATA)")


def doctor(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Say what this machine has and what is missing: versions, cores, GPUs, memory, disk, data sets."""
    from bench import listing

    _no_overrides(changes)
    text, fine = listing.doctor(home_of(args), args.root or os.environ.get("AMSRC_DATA"))
    print(text)
    return 0 if fine else 1


def _sweep_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("mode", nargs="?", choices=["matrix", "search"], default="matrix", help="default: matrix")
    p.add_argument("--recipes", help="comma-separated (default: amsrc,no-gate-add,baseline; of a search: amsrc)")
    p.add_argument("--datasets", help="comma-separated (default: those that stand under --root)")
    p.add_argument("--seeds", type=positive, default=1, metavar="N", help="seeds 0 to N-1 of each recipe (default: 1)")
    p.add_argument("--toy", action="store_true", help="run on the embedded data sets")
    p.add_argument("--root", metavar="DIR", help="folder that holds the data sets (default: $AMSRC_DATA)")
    p.add_argument("--partial", action="store_true", help="accept a subset of the videos")
    p.add_argument("--name", help="name of the sweep: its studies and its parent run in MLflow (default: the mode)")
    p.add_argument("--dry-run", action="store_true", help="print cells, what is cached, hours and cost; start nothing")
    p.add_argument("--rerun", choices=["failed"], help="repeat the cells that failed before")
    _results_option(p)
    _home_option(p)
    _labels_option(p)
    _provider_options(p)

    matrix = p.add_argument_group("matrix: recipes x data sets x seeds")
    matrix.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="FIELD=V1,V2",
        help="also every value of a field; may be repeated",
    )

    found = p.add_argument_group("search: Ray Tune and Optuna over loss weights")
    found.add_argument(
        "--over",
        metavar="FIELDS",
        help="comma-separated fields, each with its usual range or FIELD=LOW:HIGH (default: the four loss weights)",
    )
    found.add_argument("--trials", type=positive, metavar="N", help="trials a study in all (default: 20)")
    found.add_argument("--rule", help="judges a trial: paper, oracle, crossfit, label-free (default: crossfit)")
    found.add_argument(
        "--sampler", help="tpe, qmc, random (default: under crossfit qmc, which sees no score, else tpe)"
    )
    found.add_argument("--joint", action="store_true", help="one setting for all data sets: mean and worst AUROC")
    found.add_argument("--asha", action="store_true", help="stop trials early that fall behind (ASHA, by epoch)")
    found.add_argument("--storage", metavar="URL", help="Optuna's database (default: <home>/sweeps/<name>/study.db)")

    places = p.add_argument_group("where it runs")
    _workers_option(places)
    places.add_argument("--gpus-per-cell", type=float, metavar="G", help="e.g. 0.25: four cells on a GPU (default: 1)")
    places.add_argument("--cpus-per-cell", type=positive, metavar="C", help="default: an even share")
    places.add_argument(
        "--cluster",
        metavar="FILE",
        type=Path,
        default=os.environ.get("AMSRC_CLUSTER"),
        help="Ray cluster file to plan for (default: $AMSRC_CLUSTER, or the nodes that are up)",
    )
    places.add_argument(
        "--mlflow", metavar="URI", help="tracking server (default: $MLFLOW_TRACKING_URI or <home>/mlflow.db)"
    )


def sweep(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """The main job. Finished cells are never run again; the same command goes on after any end.

    matrix: recipes x data sets x seeds. search: Optuna proposes loss weights, each trial is judged under a rule.
    """
    from bench import sweep as stage

    return stage.run(args, changes)


def _speed_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--quick", action="store_true", help="fewer repeats: minutes instead of a quarter of an hour")
    p.add_argument("--out", metavar="DIR", type=Path, default=Path("results/speed"), help="default: results/speed")


def speed(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Measure every stage on this machine, by one worker and by two; the plan of a sweep reads what it writes."""
    from bench import speed as stage

    _no_overrides(changes)
    stage.run(args.out, args.quick)
    return 0


def _watch_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--video", required=True, metavar="FILE", type=Path, help="video file, or folder of numbered images")
    p.add_argument("--run", required=True, metavar="ID", help="fingerprint of a record or key of a run, or its start")
    p.add_argument("--out", required=True, metavar="FILE.mp4", type=Path, help="the video with what was found")
    p.add_argument("--csv", metavar="FILE", type=Path, help="the table of its frames (default: FILE.csv beside --out)")
    p.add_argument("--overwrite", action="store_true", help="replace these files where they stand")
    p.add_argument("--boxes", metavar="KIND", default="motion", help="motion (default), onnx:FILE or torchvision")
    p.add_argument("--flow", metavar="KIND", help="dis, farneback or raft (default: as in the run)")
    p.add_argument(
        "--scale", metavar="F", type=above_zero, help="resize before scoring (default: to the data set's height)"
    )
    p.add_argument("--fps", metavar="F", type=above_zero, help="frames per second (default: the file's; of images: 25)")
    alarm = p.add_mutually_exclusive_group()
    alarm.add_argument(
        "--quantile",
        metavar="Q",
        type=fraction,
        default=0.99,
        help="alarm above the scores of this part of the run's training frames (default: 0.99)",
    )
    alarm.add_argument("--threshold", metavar="S", type=finite, help="alarm above this score instead")
    _home_option(p)
    _results_option(p)


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


def progress(verb: str = "prepared", what: str = "videos") -> Callable[[int, int, str], None]:
    """Shows what is finished as (done, in all, the last one): a bar on a terminal, a line for each tenth elsewhere."""
    if not sys.stdout.isatty():
        return lambda done, whole, name: _tenths(f"{verb} {done} of {whole} {what}, last {name}", done, whole)
    import atexit

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{what} {verb}, last {{task.description}}"))
    bar = Progress(*columns, TimeRemainingColumn())
    atexit.register(bar.stop)  # gives the cursor back after an error too
    task = bar.add_task("")

    def show(done: int, whole: int, name: str) -> None:
        bar.start()
        bar.update(task, completed=done, total=whole, description=name)
        if done == whole:
            bar.stop()

    return show


def _tenths(line: str, done: int, whole: int) -> None:
    if done * 10 // whole > (done - 1) * 10 // whole:
        print(line, flush=True)


def epoch_line(line: Mapping[str, Any]) -> None:
    """Print one epoch of the training log."""
    terms = "  ".join(f"{n} {line[n]:.5f}" for n in ("loss", "intensity", "gradient", "consistency") if n in line)
    print(f"epoch {line['epoch']:3d}  {terms}  {line['seconds']:.1f} s  {line['cubes_per_s']:.0f} cubes/s", flush=True)


COMMANDS: dict[
    str,
    tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace, dict[str, str]], int], str],
] = {
    "data": (_data_arguments, data, "verify or fetch a data set"),
    "prepare": (_prepare_arguments, prepare, "videos -> cube store"),
    "train": (_train_arguments, train, "cube store -> trained network"),
    "evaluate": (_evaluate_arguments, evaluate, "trained network -> record"),
    "tables": (_tables_arguments, tables, "records -> Table 1 and Table 2"),
    "figures": (_figures_arguments, figures, "records -> figures; a run's pixels -> its own"),
    "report": (_report_arguments, report, "results -> one HTML page"),
    "ls": (_ls_arguments, ls, "list records, recipes or stores"),
    "doctor": (_doctor_arguments, doctor, "look at this machine"),
    "sweep": (_sweep_arguments, sweep, "the main job: all of it, for many cells, or a search"),
    "watch": (_watch_arguments, watch, "any video -> the video with boxes, score and alarms"),
    "speed": (_speed_arguments, speed, "how fast this machine is"),
}
