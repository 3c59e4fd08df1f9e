"""Command-line options of every sub-command, and how they resolve to an experiment and to folders.

`add_<command>` adds a command's options to its parser; `bench.cli.main` runs the commands. Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from amsrc.errors import ConfigError
from bench.experiment.config import Experiment, override, provider_fields
from bench.experiment.specs import LABEL_SETS, SPECS, TOYS
from bench.storage.places import Place, answering, place

if TYPE_CHECKING:
    from bench.cluster.machine import Workers

DATASET_HELP = f"{', '.join(SPECS)}, or {TOYS[0]} and so on"


class Parser(argparse.ArgumentParser):
    """argparse, with errors in this program's form."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See `{self.prog} --help`.")


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
    given = getattr(args, "home", None) or os.environ.get("AMSRC_HOME") or "~/.cache/amsrc-bench"
    return answering(place(given, "--home"), "--home")


def results_of(args: argparse.Namespace, toy: bool = False) -> Place:
    """`--results`, or $AMSRC_RESULTS, or `results`; where the home is in an object store, in it.

    Records of toy data never go there by themselves, but into `toy-results` under the home.
    """
    if given := args.results or (None if toy else os.environ.get("AMSRC_RESULTS")):
        return answering(place(given, "--results"), "--results")
    home = home_of(args)
    if toy or not isinstance(home, Path):
        return home / ("toy-results" if toy else "results")
    return Path("results").absolute()


def root_of(args: argparse.Namespace) -> Path:
    """`--root` or $AMSRC_DATA.

    Raises:
        ConfigError: neither is given.
    """
    given = args.root or os.environ.get("AMSRC_DATA")
    if not given:
        raise ConfigError("no data folder is given: pass --root DIR or set AMSRC_DATA.")
    return Path(given).expanduser().absolute()


def named_fields(args: argparse.Namespace, changes: Mapping[str, str]) -> dict[str, str]:
    """The fields that a command's words set: each by its name, and those behind --boxes, --flow and --labels."""
    boxes, flow, labels = (getattr(args, option, None) for option in ("boxes", "flow", "labels"))
    return {**changes, **provider_fields(boxes, flow), **({"label_set": labels} if labels else {})}


def experiment_of(args: argparse.Namespace, changes: Mapping[str, str]) -> tuple[Experiment, set[str]]:
    """The experiment that the options name, and the fields that they set."""
    from bench.experiment.recipes import build

    changes = named_fields(args, changes)
    recipe, seed = getattr(args, "recipe", None) or "amsrc", getattr(args, "seed", None) or 0
    experiment = override(build(recipe, args.dataset, seed), changes)
    return experiment, set(changes)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def workers(text: str) -> Workers:
    """Data-parallel workers: a number, or `LEAST:MOST`."""
    from bench.cluster.machine import Workers

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
    p.add_argument("--dataset", required=True, help=DATASET_HELP)
    p.add_argument("--root", metavar="DIR", help="folder of the data set, or its parent (default: $AMSRC_DATA)")


def home_option(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--home",
        metavar="DIR",
        help="work folder, or s3://BUCKET/PREFIX (default: $AMSRC_HOME or ~/.cache/amsrc-bench)",
    )


def provider_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--boxes", metavar="KIND", help="motion, onnx:FILE, torchvision, or file:DIR/boxes_{split}.npz")
    p.add_argument("--flow", metavar="KIND", help="dis, farneback, raft, or file:DIR")


def results_option(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--results",
        metavar="DIR",
        help="results folder or s3://BUCKET/PREFIX (default: $AMSRC_RESULTS or results; toy: in --home)",
    )


def labels_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--labels", metavar="SET", help=f"label set: {', '.join(LABEL_SETS)} (default: official)")


def _run_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--recipe", default="amsrc", help="table row (default: amsrc; `amsrc-bench ls recipes` lists all)")
    p.add_argument("--dataset", required=True, help=DATASET_HELP)
    p.add_argument("--seed", type=int, default=0)
    home_option(p)
    provider_options(p)


def workers_option(p: argparse._ActionsContainer) -> None:
    about = "data-parallel workers of a training; MIN:MAX, as in 1:4, scales with the nodes available (default: 1)"
    p.add_argument("--workers", type=workers, default="1", metavar="N", help=about)


def add_data(p: argparse.ArgumentParser) -> None:
    p.add_argument("action", choices=["verify", "fetch"], help="verify a local copy, or download one")
    _dataset_options(p)
    p.add_argument("--partial", action="store_true", help="accept a subset of the videos")


def add_prepare(p: argparse.ArgumentParser) -> None:
    _dataset_options(p)
    p.add_argument("--recipe", default="amsrc", help="table row whose cubes are cut (default: amsrc)")
    home_option(p)
    provider_options(p)
    p.add_argument("--partial", action="store_true", help="accept a subset of the videos")
    p.add_argument("--preview", metavar="FILE.png", type=Path, help="only draw some frames, boxes, flow and cubes")
    p.add_argument("--verify", action="store_true", help="afterwards check every byte against the manifest")


def add_train(p: argparse.ArgumentParser) -> None:
    _run_options(p)
    workers_option(p)


def add_evaluate(p: argparse.ArgumentParser) -> None:
    _run_options(p)
    labels_option(p)
    results_option(p)
    p.add_argument(
        "--smoothing", action="store_true", help="also measure the effect of each smoothing on this run's scores"
    )


def add_tables(p: argparse.ArgumentParser) -> None:
    results_option(p)
    p.add_argument("--readme", metavar="FILE", type=Path, help="also update Table 1 between the markers in this file")
    p.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")


def add_figures(p: argparse.ArgumentParser) -> None:
    p.add_argument("--dataset", help="also qualitative figures (pixels and network) of one run on this data set")
    p.add_argument("--recipe", help="recipe of that run (default: amsrc)")
    p.add_argument("--seed", type=int, help="seed of that run (default: 0)")
    p.add_argument("--videos", default="", metavar="NAMES", help="videos of the score curves (default: the paper's)")
    p.add_argument("--root", metavar="DIR", help="folder of the data set, or its parent (default: $AMSRC_DATA)")
    home_option(p)
    provider_options(p)
    labels_option(p)
    results_option(p)


def add_report(p: argparse.ArgumentParser) -> None:
    results_option(p)
    p.add_argument("--out", metavar="DIR", default="report", help="output folder (default: report)")
    p.add_argument("--home", metavar="DIR", help="work folder whose MLflow store has the run ids")
    p.add_argument("--mlflow", metavar="URI", help="MLflow server that has the run ids")


def add_ls(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="?", choices=["records", "searches", "recipes", "stores", "schema"], default="records")
    p.add_argument("--recipe", default="amsrc", help="for `recipes`: list the fields of this one")
    p.add_argument("--dataset", default="ped2", help="for `recipes`: with the values for this data set")
    home_option(p)
    results_option(p)


def add_doctor(p: argparse.ArgumentParser) -> None:
    home_option(p)
    p.add_argument("--root", metavar="DIR", help="data folder to check (default: $AMSRC_DATA)")


def add_speed(p: argparse.ArgumentParser) -> None:
    p.add_argument("--quick", action="store_true", help="fewer repeats: about five minutes instead of 15")
    p.add_argument("--out", metavar="DIR", type=Path, default=Path("results/speed"), help="default: results/speed")


def add_watch(p: argparse.ArgumentParser) -> None:
    p.add_argument("--video", required=True, metavar="FILE", type=Path, help="video file, or folder of numbered images")
    p.add_argument("--run", required=True, metavar="ID", help="fingerprint of a record or key of a run, or its start")
    p.add_argument("--out", required=True, metavar="FILE.mp4", type=Path, help="annotated output video")
    p.add_argument("--csv", metavar="FILE", type=Path, help="scores of its frames (default: FILE.csv next to --out)")
    p.add_argument("--overwrite", action="store_true", help="replace existing output files")
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
        help="alarm above this quantile of the scores of the run's training frames (default: 0.99)",
    )
    alarm.add_argument("--threshold", metavar="S", type=finite, help="alarm above this score instead of a quantile")
    home_option(p)
    results_option(p)
