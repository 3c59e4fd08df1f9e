"""The command line: help at once, wrong words refused with a way out, and every documented line understood."""

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from amsrc.errors import ConfigError, DataError, RunError
from bench.cli import main as cli
from bench.cli import options
from bench.cli.main import COMMANDS, EXAMPLES, main
from bench.cli.sweep_options import sweep_options
from bench.cluster.machine import Workers
from bench.records import speeds
from bench.records.records import SearchRecord, write_search
from bench.sweeps import plan
from tests.messages import names

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "matplotlib", "scipy", "sklearn", "cv2", "numpy", "pydantic")
Seen = list[tuple[argparse.Namespace, dict[str, str]]]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AMSRC_DATA", "AMSRC_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])  # `main` takes bench/ off it


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What each command was called with; none of them runs."""
    seen: Seen = []

    def note(args: argparse.Namespace, changes: dict[str, str]) -> int:
        seen.append((args, changes))
        return 0

    monkeypatch.setattr(cli, "COMMANDS", {name: (add, note, text) for name, (add, _, text) in COMMANDS.items()})
    return seen


def bench(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, text=True, capture_output=True, check=False
    )


# Help


def cpu_s(*arguments: str) -> float:
    """Processor time of a Python process: unlike the clock, it does not depend on what else is running."""
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(used)


def test_help_is_instant() -> None:
    assert cpu_s("-m", "bench", "--help") < cpu_s("-c", "pass") + 0.4


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["sweep", "--help"], 0), (["train", "--dataset", "ped2", "--recipe", "amscr"], 2)],
    ids=["help", "help-of-a-command", "wrong-name"],
)
def test_nothing_heavy_is_imported_before_it_must(words: list[str], code: int) -> None:
    script = (
        "import sys\nfrom bench.cli.main import main\n"
        f"try:\n    code = main({words})\nexcept SystemExit as end:\n    code = end.code\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stderr.splitlines()[-1] == f"{code} []"


def test_help_shows_the_commands_and_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert EXAMPLES.strip() in text
    assert all(re.search(rf"^ +{name} +\w", text, re.M) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: amsrc-bench {command}" in capsys.readouterr().out


def test_the_sweep_runs_as_a_script_from_anywhere(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "bench" / "sweep.py"), "--help"]
    done = subprocess.run(script, cwd=tmp_path, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: amsrc-bench sweep" in done.stdout


# What is documented


def documented() -> list[str]:
    """Every command line of `--help` and of the documents: indented, or in backticks with arguments."""
    found = [line.strip() for line in EXAMPLES.splitlines() if line.startswith("  ")]
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "results").glob("*.md"))):
        text = path.read_text()
        found += re.findall(r"^ {4,}((?:amsrc-bench|python bench/\w+\.py)\b.*)$", text, re.M)
        found += re.findall(r"`((?:amsrc-bench|python bench/\w+\.py) [^`]+)`", text)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", documented())
def test_every_documented_line_is_understood(
    line: str, parsed: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # files of clusters are named from there
    first, *words = shlex.split(line, comments=True)
    if first == "python":
        words[0] = Path(words[0]).stem
    assert main(words) == 0
    ((args, changes),) = parsed
    if args.command == "sweep":
        args.home, args.root, args.datasets = (
            str(tmp_path),
            str(tmp_path),
            args.datasets or ("" if args.toy else "ped2"),
        )
        planned = plan.planned(sweep_options(args, changes))
        assert len(planned.cells) > 0
        assert bool(planned.searches) == (args.mode == "search")
    elif getattr(args, "dataset", None):
        options.experiment_of(args, changes)
    else:
        assert not changes


def test_there_are_documented_lines() -> None:
    lines = documented()
    assert len(lines) >= 7
    for shape in (r"sweep search .*--over", r"sweep .*--dry-run"):
        assert any(re.search(shape, re.sub(r" +|\.py", " ", line)) for line in lines), shape


# Arguments


def test_dotted_words_are_fields_of_the_experiment(parsed: Seen) -> None:
    words = ["train", "--dataset", "ped2", "--loss.consistency", "10", "--model.flow_scale=1,2", "--score.weights=-1,1"]
    assert main(words) == 0
    ((args, changes),) = parsed
    assert (args.dataset, args.recipe, args.seed) == ("ped2", "amsrc", 0)
    assert changes == {"loss.consistency": "10", "model.flow_scale": "1,2", "score.weights": "-1,1"}


@pytest.mark.parametrize(
    ("words", "rest", "fields"),
    [
        ("sweep --axis loss.consistency=1,10", "sweep --axis loss.consistency=1,10", {}),
        ("sweep --axis=loss.consistency=1,10", "sweep --axis=loss.consistency=1,10", {}),
        ("sweep search --over loss.consistency", "sweep search --over loss.consistency", {}),
        ("sweep --results ./a.b --name=v1.2 c.d", "sweep --results ./a.b --name=v1.2 c.d", {}),
        ("sweep --loss.gradient 2 search --trials 3", "sweep search --trials 3", {"loss.gradient": "2"}),
        ("train --a.b=c.d=1 --a.b 2", "train", {"a.b": "2"}),
        ("train --a.b= --seed 1", "train --seed 1", {"a.b": ""}),
    ],
)
def test_only_options_with_a_dot_in_their_name_are_fields(words: str, rest: str, fields: dict[str, str]) -> None:
    assert options.overrides(words.split()) == (rest.split(), fields)


def test_a_sweep_has_two_modes_and_their_options(parsed: Seen) -> None:
    main(["sweep"])
    main(
        [
            "sweep",
            "search",
            "--over",
            "loss.gradient=1:2",
            "--axis",
            "model.width=4,8",
            "--axis",
            "train.batch=16,32",
            "--asha",
        ]
    )
    (plain, _), (search, changes) = parsed
    assert (plain.mode, plain.axis, plain.over, plain.trials, plain.rule) == ("matrix", [], None, None, None)
    assert (plain.sampler, plain.joint, plain.asha, plain.dry_run, plain.rerun) == (None, False, False, False, None)
    assert (search.mode, search.over, search.asha) == ("search", "loss.gradient=1:2", True)
    assert search.axis == ["model.width=4,8", "train.batch=16,32"]
    assert changes == {}


def test_the_words_of_a_sweep_become_a_value(parsed: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMSRC_CLUSTER", raising=False)
    monkeypatch.delenv("AMSRC_RESULTS", raising=False)
    where = ["--home", str(tmp_path / "home"), "--root", str(tmp_path / "data"), "--datasets", "ped2,avenue"]
    main(["sweep", *where, "--axis", "model.width=4,8", "--labels", "official", "--boxes", "onnx:b.onnx"])
    main(["sweep", "search", "--toy", *where[:2], "--seeds", "2", "--rule", "oracle", "--storage", "sqlite:///x.db"])
    words = ["--workers", "1:4", "--cluster", str(ROOT / "clusters" / "gpu.yaml"), "--rerun", "failed"]
    main(["sweep", "search", *where, "--joint", "--name", "mine", *words])
    matrix, toys, joint = (sweep_options(args, changes) for args, changes in parsed)
    assert (matrix.mode, matrix.datasets, matrix.seeds) == ("matrix", ("ped2", "avenue"), 1)
    assert matrix.recipes == ("amsrc", "no-gate-add", "baseline")
    assert matrix.axes == {"model.width": ["4", "8"]}
    assert matrix.changes == {"cube.boxes.provider": "onnx", "label_set": "official"}
    assert (matrix.sources.root, matrix.sources.boxes) == (tmp_path / "data", str(Path("b.onnx").absolute()))
    assert (matrix.places.home, matrix.places.results) == (tmp_path / "home", Path("results").absolute())
    assert (matrix.promised, matrix.also_finished, matrix.rendered) == (None, ("failed",), False)
    assert (toys.rendered, toys.sources.root) == (True, tmp_path / "home" / "toy")
    assert toys.places.results == tmp_path / "home" / "toy-results"
    assert (toys.recipes, toys.seeds, toys.places.name) == (("amsrc",), 2, "search")
    assert toys.search and (toys.search.rule, toys.search.sampler, toys.search.trials) == ("oracle", "tpe", 20)
    assert toys.places.studies == "sqlite:///x.db"
    assert matrix.places.studies == f"sqlite:///{tmp_path / 'home' / 'sweeps' / 'matrix' / 'study.db'}"
    assert joint.search and (joint.search.rule, joint.search.sampler, joint.search.joint) == ("crossfit", "qmc", True)
    assert joint.search.over is None, "for each recipe's method to say"
    assert (joint.workers, joint.places.name, joint.also_finished) == (Workers(1, 4), "mine", ())
    assert joint.promised and joint.promised.gpus == 4


def test_a_sweep_reads_its_cluster_and_the_speeds_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.cluster import launcher_files

    read: list[str] = []
    for module, name in ((launcher_files, "read_cluster"), (speeds, "read_speed"), (plan, "searches_of")):
        own: Callable[..., object] = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, own=own, name=name: read.append(name) or own(*a))
    words = ["search", "--toy", "--dry-run", "--home", str(tmp_path), "--cluster", str(ROOT / "clusters" / "gpu.yaml")]
    assert main(["sweep", *words]) == 0
    assert sorted(read) == ["read_cluster", "read_speed", "searches_of"]
    assert "search " in capsys.readouterr().out


def test_options_and_fields_make_the_experiment(parsed: Seen) -> None:
    words = ["evaluate", "--recipe", "baseline", "--dataset", "avenue", "--seed", "4", "--boxes", "file:x_{split}.npz"]
    main([*words, "--flow", "farneback", "--train.epochs", "3"])
    experiment, fixed = options.experiment_of(*parsed[0])
    assert (experiment.recipe, experiment.dataset, experiment.seed) == ("baseline", "avenue", 4)
    assert (experiment.cube.boxes.provider, experiment.cube.flow.provider) == ("file", "farneback")
    assert experiment.train.epochs == 3
    assert fixed == {"cube.boxes.provider", "cube.flow.provider", "train.epochs"}


def test_home_and_root_come_from_the_option_or_else_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSRC_HOME", "/from/environment")
    monkeypatch.setenv("AMSRC_DATA", "~/data")
    given = argparse.Namespace(home="here", root="there")
    neither = argparse.Namespace(home=None, root=None)
    assert (options.home_of(given), options.root_of(given)) == (Path.cwd() / "here", Path.cwd() / "there")
    assert (options.home_of(neither), options.root_of(neither)) == (Path("/from/environment"), Path.home() / "data")
    monkeypatch.delenv("AMSRC_HOME")
    assert options.home_of(neither) == Path.home() / ".cache" / "amsrc-bench"


SWEEPS = [
    ("grid", "'grid' | 'matrix' | 'search'"),
    ("--trials 0", "--trials | '0' | from 1 | `amsrc-bench sweep --help`"),
    ("--seeds x", "--seeds | 'x' | from 1"),
    ("--rerun done", "--rerun | 'done' | 'failed'"),
    ("--toy --rule oracle --trials 5", "--trials | --rule | `amsrc-bench sweep search ...`"),
    ("--toy --joint", "--joint | `amsrc-bench sweep search ...`"),
    ("--toy --asha --over loss.consistency", "--asha | --over | `amsrc-bench sweep search ...`"),
    ("search --toy --axis loss.consistency=1,2", "--axis | --over"),
    ("search --toy --rule best", "--rule | 'best' | paper, oracle, crossfit, label-free"),
    ("search --toy --sampler grid", "--sampler | 'grid' | auto, qmc, tpe, random"),
    ("search --toy --over loss.consitency", "--over | 'loss.consitency' | loss.consistency"),
    ("search --toy --over train.epochs=2:8", "--over train.epochs | loss."),
    ("search --toy --over loss.gradient=2:1", "--over loss.gradient=2:1 | LOW:HIGH"),
    ("search --toy --over train.decay", "train.decay=LOW:HIGH"),
    ("search --toy --asha --seeds 2", "--asha | --joint"),
    ("search --toy --asha --workers 2", "--asha | --workers"),
    ("search --toy --asha --joint", "--asha | --joint"),
    ("search --toy --asha --train.score_every 0", "train.score_every is 0"),
    ("search --toy --asha --train.held_out 0", "--asha | train.held_out"),
    ("search --toy --rule label-free --train.held_out 0", "--rule label-free | train.held_out"),
    ("search --toy --recipes amsrc,null-flow", "--recipes null-flow"),
    ("--toy --axis loss.consistency", "--axis loss.consistency"),
    ("--toy --axis loss.form=released,best", "loss.form | 'released' | 'paper' | 'best'"),
    ("--toy --axis loss.gradient=1,2 --loss.gradient 3", "loss.gradient | axis"),
    ("--toy --recipes amsrc,amsrc", "twice | amsrc on toy-ped2"),
    ("--root . --datasets toy-ped2,ped2", "--datasets | toy"),
    ("--toy --train.epochs 0", "train.epochs is 0 | 1 or more"),
    ("--toy --home gs://bucket/home", "--home gs://... | s3://BUCKET/PREFIX?region=REGION"),
    ("--toy --results s3://key:word@bucket/x", "--results | keys"),
    ("--toy --dry-run --cluster nowhere.yaml", "nowhere.yaml"),
    ("--toy --dry-run --workers 999", "--workers 999 needs 999 "),
    ("--toy --dry-run --workers 2:1", "--workers 2:1 | 1:4"),
]
"""Wrong words of a sweep, and the names and numbers in what is said of them, with | between them."""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "COMMAND | `amsrc-bench --help`"),
        ("trian", "'trian' | : train"),
        ("train --dataset ped3", "'ped3' | ped2, toy-ped2"),
        ("train --dataset ped2 --recipe amscr", "'amscr' | : amsrc"),
        ("train --dataset ped2 --loss.consitency 1", "'loss.consitency' | loss.consistency"),
        ("train --dataset ped2 --loss.consistency", "--loss.consistency | value"),
        ("train --dataset ped2 --loss.consistency x", "loss.consistency | number"),
        ("train --dataset ped2 --model.width 0", "model.width is 0 | 1 to 1024"),
        ("train --dataset ped2 --seed -1", "seed is -1 | 0 or more"),
        ("train --dataset ped2 --seed x", "--seed | 'x' | `amsrc-bench train --help`"),
        ("train --dataset ped2 --worker-count 2", "'--worker-count' | `amsrc-bench train --help`"),
        ("train --dataset ped2 now", "'now' | `amsrc-bench train --help`"),
        ("train", "--dataset | `amsrc-bench train --help`"),
        ("evaluate --dataset ped2 --recipe amscr", "recipe | 'amscr'"),
        ("prepare --dataset pedestrians --root .", "data set | 'pedestrians'"),
        ("prepare --dataset ped2 --root . --boxes motoin", "'motion' | 'onnx' | 'torchvision' | 'file' | 'motoin'"),
        ("prepare --dataset ped2 --root . --flow disflow", "'dis' | 'farneback' | 'raft' | 'file' | 'disflow'"),
        ("data verify --dataset ped3 --root .", "'ped3' | : ped2"),
        ("data check --dataset ped2 --root .", "'check' | 'verify' | 'fetch'"),
        ("data verify --dataset ped2 --root . --cube.size 8", "--cube.size"),
        ("tables --cube.size 8", "--cube.size"),
        ("ls recipies", "'recipies' | 'records' | 'searches' | 'recipes' | 'stores'"),
        ("ls recipes --recipe amscr", "'amscr' | : amsrc"),
        ("sweep --recipes amsrc,amscr --datasets ped2 --root .", "'amscr' | : amsrc"),
        ("sweep --datasets ped3 --root .", "'ped3' | : ped2"),
        ("sweep --datasets ped2", "--root DIR | AMSRC_DATA"),
        ("prepare --dataset ped2", "--root DIR | AMSRC_DATA"),
        ("data verify --dataset ped2 --root nowhere", "nowhere | --root | AMSRC_DATA"),
        ("prepare --dataset ped2 --root nowhere", "nowhere | --root | AMSRC_DATA"),
        ("sweep --root nowhere", "nowhere | --root | AMSRC_DATA"),
        ("figures --seed 1", "--seed | --dataset"),
        ("figures --boxes motion", "--boxes | --dataset"),
        ("sweep --toy --datasets ped2", "--toy | ped2 | --datasets"),
        ("sweep --toy --name ../elsewhere", "--name '../elsewhere'"),
        ("train --dataset ped2 --seed 9223372036854775808", "0 or more | 2^63"),
        ("tables --results nowhere", "nowhere"),
        ("data verify --dataset ped2 --root .", "ped2: | videos"),
        ("train --dataset ped2 --home .", "ped2 | store"),
        ("evaluate --dataset ped2 --home .", "`amsrc-bench prepare --dataset ped2 --root DIR --home"),
        ("ls searches --cube.size 8", "--cube.size"),
        *((f"sweep {line}", message) for line, message in SWEEPS),
    ],
    ids=lambda value: value if value.startswith(tuple(COMMANDS)) else "",
)
def test_wrong_usage_is_said_in_a_line_and_exits_with_2(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    names(error, *message.split(" | "))


@pytest.mark.parametrize(
    "line", [line for line, _ in SWEEPS if not {"--home", "--results"} & set(line.split())] + ["--toy --recipes amscr"]
)
def test_a_sweep_that_is_refused_leaves_nothing_behind(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *line.split(), "--home", "home", "--results", "results"]) == 2
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


DRY = """
import os, sys
from bench.cli.main import main
from bench.sweeps import run as sweep

def stop(*_, **__):
    raise AssertionError("started")

sweep.connect = sweep.render = sweep.prepare = sweep.open_tracker = stop
lines = ["", "search --trials 7 --seeds 2", "search --joint --rule label-free --over loss.gradient",
         "matrix --datasets toy-ped2 --seeds 2", "search --datasets toy-ped2 --trials 6"]
codes = [main(["sweep", *line.split(), "--toy", "--dry-run", "--home", "home", "--results", "results"])
         for line in lines]
ray = sys.modules.get("ray")
print("codes", codes, "ray", bool(ray and ray.is_initialized()), "left", os.listdir())
"""


def test_a_dry_run_says_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    alone = {"RAY_ADDRESS": "127.0.0.1:1"}  # who asks Ray fails
    environment = {**os.environ, **alone, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", DRY], cwd=tmp_path, env=environment, text=True, capture_output=True, check=True
    )
    *text, last = done.stdout.splitlines()
    assert last == "codes [0, 0, 0, 0, 0] ray False left []"
    assert done.stderr == ""
    said = "\n".join(text)
    for recipe in ("amsrc", "no-gate-add", "baseline"):
        assert re.search(rf"\b{recipe}\b", said)
    studies = [line.split()[1].rstrip(":") for line in text if line.startswith("search ")]
    assert [name.rpartition("-")[0] for name in studies] == [
        *(f"amsrc-toy-{name}-crossfit" for name in ("ped2", "avenue", "shanghaitech")),
        "amsrc-joint-label-free",
        "amsrc-toy-ped2-crossfit",
    ]
    planned = [tuple(map(int, line.split()[1:])) for line in text if line.startswith("all ")]
    assert planned[-2:] == [(6, 0, 6), (1, 0, 1)], "cells, those that are there, those to run"
    assert said.count("to prepare  toy-ped2") == len(planned) == 5
    assert "7 trials of 2 runs, " in said
    assert "6 trials of 1 runs, " in said
    assert "20 trials of 3 runs, " in said
    assert re.search(r"over +loss.gradient 0.1 to 10; rule label-free, sampler tpe\.", said)


def test_ls_lists_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ls", "searches", "--home", str(tmp_path / "home"), "--results"]
    assert main([*words, str(tmp_path)]) == 0
    assert f"no searches in {tmp_path}" in capsys.readouterr().out
    study = "amsrc-ped2-crossfit-1a2b3c4d"
    chosen = {"ped2": {"crossfit": {"auroc": 0.9123, "folds": []}}}
    facts = {"study": study, "recipe": "amsrc", "datasets": ["ped2"], "seeds": [0], "joint": False, "rule": "crossfit"}
    facts |= {"space": {}, "sampler": "", "proposals": "", "reference": [], "trials": [], "chosen": chosen}
    facts |= {"started": "", "finished": "", "git": {}, "hardware": {}, "versions": {}}
    write_search(SearchRecord(**facts), tmp_path)
    assert main([*words, str(tmp_path)]) == 0
    (line,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(study)]
    assert line[:2] == [study, "ped2"]
    assert "91.23" in line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["prepare --dataset toy-ped2 --root root", "sweep --toy --results results"])
def test_a_home_that_cannot_be_written_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a regular file nobody may make a folder, not even root."""
    from bench.data import toy

    for clips in (toy.TRAIN, toy.TEST):
        monkeypatch.setitem(clips, "toy-ped2", [toy.replace(clips["toy-ped2"][0], frames=5)])
    toy.render_one("toy-ped2", tmp_path / "root")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--home", str(tmp_path / "file" / "home")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/file/home" in error
    assert "Not a directory" in error
    assert "Traceback" not in error


# Errors and exit codes


def commands_that(act: Callable[[], int]) -> dict[str, object]:
    return {"ls": (lambda p: p.add_argument("--name"), lambda _args, _changes: act(), "")}


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("broken"), 2), (DataError("broken"), 2), (RunError("broken"), 1)]
)
def test_each_kind_of_error_has_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> int:
        raise error

    monkeypatch.setattr(cli, "COMMANDS", commands_that(act))
    assert main(["ls"]) == code
    assert capsys.readouterr().err == "error: broken\n"
    with pytest.raises(type(error), match="broken"):
        main(["ls", "--debug"])


def test_an_interrupted_command_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "COMMANDS", commands_that(act))
    assert main(["ls", "--name", "a b", "--loss.consistency=1e-2", "--debug"]) == 130
    _, said, command = capsys.readouterr().err.splitlines()
    assert said == "interrupted; nothing finished is lost. To resume:"
    assert command == "  amsrc-bench ls --name 'a b' --loss.consistency=1e-2 --debug", "as it can be pasted"


def test_the_exit_code_of_a_command_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", commands_that(lambda: 1))
    assert main(["ls"]) == 1


def test_a_traceback_is_shown_with_debug_alone() -> None:
    plain, debug = bench("train", "--dataset", "ped3"), bench("--debug", "train", "--dataset", "ped3")
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr == "error: unknown data set 'ped3'; did you mean: ped2, toy-ped2?\n"
    assert debug.returncode != 0
    assert "Traceback (most recent call last)" in debug.stderr
    assert "ConfigError: unknown data set 'ped3'" in debug.stderr


def test_a_reader_who_closes_the_pipe_is_no_error() -> None:
    """`amsrc-bench ls recipes | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "ls", "recipes"],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["ls", "ls stores", "train --dataset ped2", "evaluate --dataset ped2", "tables"])
def test_an_object_store_that_does_not_answer_is_said_in_a_line_within_seconds(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    option = "--results" if command == "tables" else "--home"
    before = time.monotonic()
    assert main([*command.split(), option, "s3://bucket/x?endpoint_override=http://127.0.0.1:1&region=us-east-1"]) == 2
    assert time.monotonic() - before < 20
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option} s3://bucket/x")
    assert "it does not answer" in error
    assert error.count("\n") == 1
