"""The options of `amsrc-bench sweep`, and the value that they make. Imports nothing heavy before it must."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from amsrc.errors import ConfigError
from bench.cli.options import (
    home_of,
    home_option,
    labels_option,
    named_fields,
    positive,
    provider_options,
    results_of,
    results_option,
    root_of,
    workers_option,
)
from bench.experiment.specs import TOYS, is_toy
from bench.storage.places import Place

if TYPE_CHECKING:
    from bench.sweeps.options import SearchOptions, SweepOptions

RECIPES = {"matrix": "amsrc,no-gate-add,baseline", "search": "amsrc"}
RULE = "crossfit"
TRIALS = 20
OF_A_SEARCH = ("joint", "asha", "over", "trials", "rule", "sampler")


def add_sweep(p: argparse.ArgumentParser) -> None:
    p.add_argument("mode", nargs="?", choices=["matrix", "search"], default="matrix", help="default: matrix")
    p.add_argument("--recipes", help="comma-separated (default: amsrc,no-gate-add,baseline; of a search: amsrc)")
    p.add_argument("--datasets", help="comma-separated (default: all found in --root)")
    p.add_argument("--seeds", type=positive, default=1, metavar="N", help="seeds 0 to N-1 of each recipe (default: 1)")
    p.add_argument("--toy", action="store_true", help="run on the embedded synthetic data sets")
    p.add_argument("--root", metavar="DIR", help="folder that holds the data sets (default: $AMSRC_DATA)")
    p.add_argument("--partial", action="store_true", help="accept a subset of the videos")
    p.add_argument("--name", help="name of the sweep, its studies and its parent run in MLflow (default: the mode)")
    p.add_argument("--dry-run", action="store_true", help="print runs, cached results, hours and cost; start nothing")
    p.add_argument("--rerun", choices=["failed"], help="repeat the runs that failed before")
    results_option(p)
    home_option(p)
    labels_option(p)
    provider_options(p)

    matrix = p.add_argument_group("matrix: recipes x data sets x seeds")
    matrix.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="FIELD=V1,V2",
        help="also run every value of a field; may be repeated",
    )

    found = p.add_argument_group("search: Ray Tune and Optuna over settings of a method")
    found.add_argument(
        "--over",
        metavar="FIELDS",
        help="comma-separated fields, FIELD=LOW:HIGH or with the usual range (default: all of the method that "
        "have one, else train.learning_rate)",
    )
    found.add_argument("--trials", type=positive, metavar="N", help="total number of trials in a study (default: 20)")
    found.add_argument("--rule", help="scores a trial: paper, oracle, crossfit, label-free (default: crossfit)")
    found.add_argument(
        "--sampler", help="tpe, qmc, random (default: under crossfit qmc, which reads no score, else tpe)"
    )
    found.add_argument("--joint", action="store_true", help="one setting for all data sets: mean and worst AUROC")
    found.add_argument("--asha", action="store_true", help="stop trials early that fall behind (ASHA over epochs)")
    found.add_argument("--storage", metavar="URL", help="Optuna's database (default: <home>/sweeps/<name>/study.db)")

    places = p.add_argument_group("where it runs")
    workers_option(places)
    places.add_argument("--gpus-per-run", type=float, metavar="G", help="e.g. 0.25: four runs on a GPU (default: 1)")
    places.add_argument("--cpus-per-run", type=positive, metavar="C", help="cores of a run (default: an even share)")
    places.add_argument(
        "--cluster",
        metavar="FILE",
        type=Path,
        default=os.environ.get("AMSRC_CLUSTER"),
        help="Ray cluster file to plan for (default: $AMSRC_CLUSTER, or the running nodes)",
    )
    places.add_argument(
        "--mlflow", metavar="URI", help="tracking server (default: $MLFLOW_TRACKING_URI or <home>/mlflow.db)"
    )


def sweep_options(args: argparse.Namespace, changes: Mapping[str, str]) -> SweepOptions:
    """The sweep that the options name, with the data sets that exist and its cluster file read.

    Raises:
        ConfigError: a wrong value, or options that do not go together.
        DataError: the folder of the data sets does not exist.
    """
    from bench.cluster.launcher_files import read_cluster
    from bench.data.stores import Sources
    from bench.sweeps.grid import parse_axes
    from bench.sweeps.options import Places, SweepOptions

    home = home_of(args)
    if args.name and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", args.name):
        raise ConfigError(f"--name {args.name!r}: letters, digits, '_', '-' and, but at its start, '.'.")
    names, root = _datasets(args, home)
    results = results_of(args, toy=is_toy(names[0]))
    return SweepOptions(
        datasets=tuple(names),
        recipes=tuple((args.recipes or RECIPES[args.mode]).split(",")),
        seeds=args.seeds,
        changes=named_fields(args, changes),
        axes=parse_axes(args.axis),
        search=_search(args),
        sources=Sources.of(root, args.boxes, args.flow),
        partial=args.partial,
        places=Places(home, results, args.name or args.mode, args.storage),
        workers=args.workers,
        gpus_per_run=args.gpus_per_run,
        cpus_per_run=args.cpus_per_run,
        promised=read_cluster(args.cluster) if args.cluster else None,
        mlflow=args.mlflow,
        rerun_failed=args.rerun == "failed",
        dry_run=args.dry_run,
    )


def _datasets(args: argparse.Namespace, home: Place) -> tuple[list[str], Path]:
    """The data sets to run on and the folder that has them; the embedded ones where there is no real one.

    Raises:
        ConfigError: a data set was named and there is no folder to look for it in, or it is not of the others' kind.
    """
    from bench.data import datasets
    from bench.data.toy import embedded

    named = args.datasets.split(",") if args.datasets else []
    if args.toy:
        if real := [name for name in named if not is_toy(name)]:
            raise ConfigError(f"--toy: {', '.join(real)} is no embedded data set; leave out --toy or --datasets.")
        return named or TOYS, embedded(home)
    given = bool(args.root or os.environ.get("AMSRC_DATA"))
    if named and not given and not all(map(is_toy, named)):
        raise ConfigError("no data folder is given: pass --root DIR or set AMSRC_DATA.")
    if 0 < sum(map(is_toy, named)) < len(named):
        raise ConfigError("--datasets: toy and real data sets do not go into one sweep; run one for each kind.")
    root = root_of(args) if given else embedded(home)
    names = named or ([name for name in datasets.present(root) if not is_toy(name)] if given else [])
    if names:
        return names, root
    where = f"under {root}" if given else "(AMSRC_DATA is not set, no --root given)"
    print(f"*** NO REAL DATA SET FOUND {where}: RUNNING ON THE EMBEDDED TOY DATA. ***", flush=True)
    return TOYS, embedded(home)


def _search(args: argparse.Namespace) -> SearchOptions | None:
    """How to search; None for the matrix.

    Raises:
        ConfigError: options that do not go together, or belong to the other mode.
    """
    from bench.sweeps.options import SearchOptions
    from bench.sweeps.search import sampler_for

    if args.mode == "matrix":
        if wrong := [f"--{name}" for name in OF_A_SEARCH if getattr(args, name)]:
            raise ConfigError(f"{', '.join(wrong)}: for a search. Say `amsrc-bench sweep search ...`.")
        return None
    if args.asha and args.workers.most > 1:
        raise ConfigError("--asha stops trials of one worker each: it does not go with --workers. Leave one out.")
    if args.axis:
        raise ConfigError("--axis: for the matrix. A search takes its fields from --over.")
    rule = args.rule or RULE
    return SearchOptions(
        over=tuple(args.over.split(",")) if args.over else None,
        rule=rule,
        sampler=sampler_for(rule, args.sampler or "auto"),
        trials=args.trials or TRIALS,
        joint=args.joint,
        asha=args.asha,
    )
