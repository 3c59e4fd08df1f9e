"""The command line: help at once, wrong words refused with a way out, and every documented line understood."""

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from amsrc.errors import ConfigError, DataError, RunError
from bench import cli
from bench.cli import COMMANDS, EXAMPLES, main
from bench.config import override
from bench.recipes import build

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
        "import sys\nfrom bench.cli import main\n"
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


def test_stage_modules_run_as_scripts_from_anywhere(tmp_path: Path) -> None:
    stages = ["prepare", "train", "evaluate", "tables", "sweep"]
    running = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "bench" / f"{stage}.py"), "--help"],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for stage in stages
    ]
    for stage, process in zip(stages, running, strict=True):
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert f"usage: amsrc-bench {stage}" in out


# What is documented


def documented() -> list[str]:
    """Every command line of `--help`, README.md and results/README.md: indented, or in backticks with arguments."""
    found = [line.strip() for line in EXAMPLES.splitlines() if line.startswith("  ")]
    for path in (ROOT / "README.md", ROOT / "results" / "README.md"):
        text = path.read_text()
        found += re.findall(r"^ {4,}((?:amsrc-bench|python bench/\w+\.py)\b.*)$", text, re.M)
        found += re.findall(r"`((?:amsrc-bench|python bench/\w+\.py) [^`]+)`", text)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", documented())
def test_every_documented_line_is_understood(line: str, parsed: Seen) -> None:
    first, *words = shlex.split(line, comments=True)
    if first == "python":
        words[0] = Path(words[0]).stem
    assert main(words) == 0
    ((args, changes),) = parsed
    if args.command == "sweep":
        for recipe in args.recipes.split(","):
            for dataset in (args.datasets or "ped2").split(","):
                override(build(recipe, dataset), changes)
    elif "dataset" in args:
        cli.experiment_of(args, changes)
    else:
        assert not changes


def test_there_are_documented_lines() -> None:
    assert len(documented()) >= 7


# Arguments


def test_dotted_words_are_fields_of_the_experiment(parsed: Seen) -> None:
    words = ["train", "--dataset", "ped2", "--loss.consistency", "10", "--model.flow_scale=1,2", "--score.weight_f=-1"]
    assert main(words) == 0
    ((args, changes),) = parsed
    assert (args.dataset, args.recipe, args.seed) == ("ped2", "amsrc", 0)
    assert changes == {"loss.consistency": "10", "model.flow_scale": "1,2", "score.weight_f": "-1"}


def test_options_and_fields_make_the_experiment(parsed: Seen) -> None:
    words = ["evaluate", "--recipe", "baseline", "--dataset", "avenue", "--seed", "4", "--boxes", "file:x_{split}.npz"]
    main([*words, "--flow", "farneback", "--train.epochs", "3"])
    experiment, fixed = cli.experiment_of(*parsed[0])
    assert (experiment.recipe, experiment.dataset, experiment.seed) == ("baseline", "avenue", 4)
    assert (experiment.cube.boxes.provider, experiment.cube.flow.provider) == ("file", "farneback")
    assert experiment.train.epochs == 3
    assert fixed == {"cube.boxes.provider", "cube.flow.provider", "train.epochs"}


def test_home_and_root_come_from_the_option_or_else_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSRC_HOME", "/from/environment")
    monkeypatch.setenv("AMSRC_DATA", "~/data")
    given = argparse.Namespace(home="here", root="there")
    neither = argparse.Namespace(home=None, root=None)
    assert (cli.home_of(given), cli.root_of(given)) == (Path.cwd() / "here", Path.cwd() / "there")
    assert (cli.home_of(neither), cli.root_of(neither)) == (Path("/from/environment"), Path.home() / "data")
    monkeypatch.delenv("AMSRC_HOME")
    assert cli.home_of(neither) == Path.home() / ".cache" / "amsrc-bench"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "arguments are required: COMMAND. See `amsrc-bench --help`."),
        ("trian", "unknown command 'trian'; did you mean: train"),
        ("train --dataset ped3", "unknown data set 'ped3'; did you mean: ped2, toy-ped2?"),
        ("train --dataset ped2 --recipe amscr", "unknown recipe 'amscr'; did you mean: amsrc"),
        ("train --dataset ped2 --loss.consitency 1", "unknown field 'loss.consitency'; did you mean: loss.consistency"),
        ("train --dataset ped2 --loss.consistency", "--loss.consistency needs a value."),
        ("train --dataset ped2 --loss.consistency x", "loss.consistency: Input should be a valid number"),
        ("train --dataset ped2 --model.width 0", "model.width is 0; allowed: 1 to 1024"),
        ("train --dataset ped2 --seed -1", "seed is -1; allowed: 0 or more"),
        ("train --dataset ped2 --seed x", "argument --seed: invalid int value: 'x'. See `amsrc-bench train --help`."),
        ("train --dataset ped2 --worker-count 2", "unknown argument '--worker-count'. See `amsrc-bench train --help`."),
        ("train --dataset ped2 now", "unknown argument 'now'. See `amsrc-bench train --help`."),
        ("train", "the following arguments are required: --dataset. See `amsrc-bench train --help`."),
        ("evaluate --dataset ped2 --recipe amscr", "unknown recipe 'amscr'"),
        ("prepare --dataset pedestrians --root .", "unknown data set 'pedestrians'"),
        ("prepare --dataset ped2 --root . --boxes motoin", "'motion', 'onnx', 'torchvision' or 'file', got 'motoin'"),
        ("prepare --dataset ped2 --root . --flow disflow", "'dis', 'farneback', 'raft' or 'file', got 'disflow'"),
        ("data verify --dataset ped3 --root .", "unknown data set 'ped3'; did you mean: ped2"),
        ("data check --dataset ped2 --root .", "invalid choice: 'check' (choose from 'verify', 'fetch')"),
        ("data verify --dataset ped2 --root . --cube.size 8", "--cube.size: this command has no experiment to change."),
        ("tables --cube.size 8", "--cube.size: this command has no experiment to change."),
        ("ls recipies", "invalid choice: 'recipies' (choose from 'records', 'recipes', 'stores')"),
        ("ls recipes --recipe amscr", "unknown recipe 'amscr'; did you mean: amsrc"),
        ("sweep --recipes amsrc,amscr --datasets ped2 --root .", "unknown recipe 'amscr'; did you mean: amsrc"),
        ("sweep --datasets ped3 --root .", "unknown data set 'ped3'; did you mean: ped2"),
        ("sweep --datasets ped2", "pass --root DIR or set AMSRC_DATA."),
        ("prepare --dataset ped2", "where the data lies is not known: pass --root DIR or set AMSRC_DATA."),
        ("data verify --dataset ped2 --root nowhere", "nowhere: no such folder. Pass --root, or set AMSRC_DATA"),
        ("prepare --dataset ped2 --root nowhere", "nowhere: no such folder. Pass --root, or set AMSRC_DATA"),
        ("sweep --root nowhere", "nowhere: no such folder. Pass --root, or set AMSRC_DATA"),
        ("doctor --root nowhere", "nowhere: no such folder. Pass --root, or set AMSRC_DATA"),
        ("data verify --dataset ped2 --root .", "ped2: no videos under"),
        ("train --dataset ped2 --home .", "no finished cube store of ped2 under"),
        ("evaluate --dataset ped2 --home .", "Run `amsrc-bench prepare --dataset ped2 --root DIR --home"),
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
    assert message in error


def test_a_sweep_over_an_unknown_recipe_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--toy", "--recipes", "amscr", "--home", str(tmp_path / "home"), "--results", str(tmp_path / "r")]
    assert main(words) == 2
    assert "unknown recipe 'amscr'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["prepare --dataset toy-ped2 --root root", "sweep --toy --results results"])
def test_a_home_that_cannot_be_written_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a regular file nobody may make a folder, not even root."""
    from bench import toy

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
    return {"ls": (lambda _: None, lambda _args, _changes: act(), "")}


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
    assert main(["ls"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


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
