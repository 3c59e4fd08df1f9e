"""The cluster files, checked without a cloud: by Ray, by the clouds' own descriptions, by the shell that will run them.

And every command of the two READMEs, parsed by the program that it starts; none of them runs.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import click
import googleapiclient
import mlflow.cli
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.command_runner import _with_interactive
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from bench.cli import main as cli
from bench.cli.main import COMMANDS, main
from bench.cluster.launcher_files import read_cluster
from bench.records import speeds
from bench.records.speeds import Row
from bench.sweeps import estimate
from bench.sweeps.estimate import Cubes

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
CHECKOUT = "amsrc-bench/"  # where the head has this checkout, from its home


def load(path: Path) -> list[dict[str, Any]]:
    return [part for part in yaml.safe_load_all(path.read_text()) if part]


FILES = {path.name: load(path) for path in sorted(CLUSTERS.glob("*.yaml"))}
LAUNCHER = {name: parts[0] for name, parts in FILES.items() if "provider" in parts[0]}
(JOB,) = (part for part in FILES["kuberay.yaml"] if part["kind"] == "RayJob")
GROUPS = [JOB["spec"]["rayClusterSpec"]["headGroupSpec"], *JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
PLANNED = [name for name, parts in FILES.items() if name not in LAUNCHER or "available_node_types" in parts[0]]


def test_all_kinds_of_clusters_are_checked() -> None:
    assert {content["provider"]["type"] for content in LAUNCHER.values()} >= {"aws", "gcp"}
    assert {"gpu.yaml", "gcp.yaml", "kuberay.yaml"} <= set(PLANNED)


# -- Ray's launcher ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(load(CLUSTERS / name)[0]))


@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_refuses_the_file_with_a_word_that_it_does_not_know(name: str) -> None:
    content = load(CLUSTERS / name)[0] | {"setup_command": []}
    with pytest.raises(Exception, match="setup_command"):
        validate_config(prepare_config(content))


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_checkout_and_the_token_reach_every_node(name: str) -> None:
    mounts = {remote.rstrip("/"): local for remote, local in LAUNCHER[name]["file_mounts"].items()}
    (checkout,) = (remote for remote, local in mounts.items() if local in (".", "./"))
    assert checkout.endswith(CHECKOUT.rstrip("/"))
    kept_out = [*LAUNCHER[name].get("rsync_exclude", []), *LAUNCHER[name].get("rsync_filter", [])]
    assert {".venv", ".gitignore"} & set(kept_out)  # another machine's environment
    assert [local for remote, local in mounts.items() if remote.endswith("/.ray/auth_token")] == ["~/.ray/auth_token"]
    assert "RAY_AUTH_MODE=token" in (CLUSTERS / name).read_text()


@pytest.mark.parametrize("name", LAUNCHER)
def test_what_shows_the_sweep_listens_on_the_heads_loopback(name: str) -> None:
    commands = list(words_of("\n".join(LAUNCHER[name]["head_start_ray_commands"])))
    (start,) = (words[2:] for words in commands if words[:2] == ["ray", "start"])
    assert ray_cli.commands["start"].make_context("start", start).params["dashboard_host"] == "127.0.0.1"
    for words in commands:
        for number, word in enumerate(words):
            if word.endswith("/mlflow"):
                assert served(words[number + 1 :])["host"] == "127.0.0.1"


def served(words: list[str]) -> dict[str, Any]:
    """The options of an MLflow server, as MLflow takes them."""
    assert words[0] == "server"
    return mlflow.cli.cli.commands["server"].make_context("server", words[1:]).params


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp.yaml"])
def test_mlflow_starts_once_and_outlives_the_connection(name: str) -> None:
    (line,) = (text for text in LAUNCHER[name]["head_start_ray_commands"] if "mlflow" in text)
    asked, _, started = line.partition(" || ")
    assert asked == "systemctl is-active --quiet mlflow"
    assert {"systemd-run", "--unit=mlflow", "--collect"} <= set(shlex.split(started))


SHELL_COMMANDS = [
    (name, text) for name, content in LAUNCHER.items() for key in content if "commands" in key for text in content[key]
]


@pytest.mark.parametrize(("name", "text"), SHELL_COMMANDS)
def test_the_shell_understands_what_nodes_run(name: str, text: str) -> None:
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def at_home(name: str, home: Path) -> dict[str, str]:
    """The environment of a head's home after its setup commands, those that write settings, have run twice."""
    (home / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\n")  # Ubuntu's begins so
    content = LAUNCHER[name]
    ours = [text for text in content["setup_commands"] + content["head_setup_commands"] if "~/.amsrc-bench" in text]
    assert len(ours) == 3
    here = {"HOME": str(home), "PATH": os.environ["PATH"]}
    for text in ours * 2:  # `ray up` may run them again
        subprocess.run(["bash", "-c", text], env=here, check=True)
    assert (home / ".bashrc").read_text().count("amsrc-bench") == 1
    return here


QUERIES = {"gpu.yaml": "", "gcp.yaml": "?endpoint_override=https://storage.googleapis.com&region=auto"}


@pytest.mark.parametrize(("name", "query"), QUERIES.items())
def test_nodes_have_their_settings_in_every_shell(name: str, query: str, tmp_path: Path) -> None:
    here = at_home(name, tmp_path)
    done = subprocess.run(["bash", "-c", ". ~/.bashrc; env -0"], env=here, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert found["PATH"].startswith(f"{tmp_path}/amsrc-bench/.venv/bin:")
    assert found["AMSRC_DATA"] == f"{tmp_path}/data"
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert found["AMSRC_HOME"] == f"s3://my-bucket/amsrc-bench{query}"
    assert found["AMSRC_CLUSTER"] == f"{tmp_path}/amsrc-bench/clusters/{name}"


@pytest.mark.parametrize("name", QUERIES)
def test_what_is_submitted_arrives_word_by_word(name: str, tmp_path: Path) -> None:
    here = at_home(name, tmp_path)
    python = tmp_path / "amsrc-bench" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    (given,) = (
        words[words.index("--") + 1 :]
        for words in DOCUMENTED
        if words[1] == "submit" and f"clusters/{name}" in words and "--" in words
    )
    command = " ".join(_with_interactive(" ".join(["python", "~/sweep.py", *given])))  # as Ray hands it to ssh
    done = subprocess.run(
        ["bash", "-c", command], env=here, capture_output=True, text=True, check=True, start_new_session=True
    )
    assert done.stdout.splitlines() == [f"{tmp_path}/sweep.py", *given]


# -- what the clouds accept ----------------------------------------------------------------------------------


def ec2_errors(node_config: dict[str, Any]) -> str:
    """What EC2 would say against starting such an instance; empty if nothing."""
    ec2 = botocore.session.get_session().get_service_model("ec2")
    request = {**node_config, "MinCount": 1, "MaxCount": 1}
    report: str = ParamValidator().validate(request, ec2.operation_model("RunInstances").input_shape).generate_report()
    return report


AWS_NODES = LAUNCHER["gpu.yaml"]["available_node_types"]


@pytest.mark.parametrize("kind", AWS_NODES)
def test_ec2_accepts_the_nodes(kind: str) -> None:
    assert ec2_errors(AWS_NODES[kind]["node_config"]) == ""
    assert ("InstanceMarketOptions" in AWS_NODES[kind]["node_config"]) == (kind == "worker")


@pytest.mark.parametrize(
    ("typo", "message"),
    [
        ({"InstanceTyp": "g5.xlarge"}, 'Unknown parameter in input: "InstanceTyp"'),
        ({"InstanceMarketOptions": {"MarketTyp": "spot"}}, 'Unknown parameter in InstanceMarketOptions: "MarketTyp"'),
        ({"IamInstanceProfile": "amsrc-bench-worker"}, "Invalid type for parameter IamInstanceProfile"),
        ({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": "200"}}]}, "Invalid type for parameter BlockDeviceMappings"),
    ],
)
def test_a_typo_in_an_ec2_node_is_caught(typo: dict[str, Any], message: str) -> None:
    content = load(CLUSTERS / "gpu.yaml")[0]
    node = content["available_node_types"]["worker"]["node_config"]
    node |= typo
    validate_config(prepare_config(content))  # Ray does not see it
    assert message in ec2_errors(node)


GOOGLE = json.loads(
    (Path(googleapiclient.__file__).parent / "discovery_cache" / "documents" / "compute.v1.json").read_text()
)["schemas"]
PYTHON_TYPES = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "object": dict, "array": list}


def google_errors(value: Any, schema: dict[str, Any], where: str = "node") -> list[str]:
    """What does not fit Google's own description of its API."""
    schema = GOOGLE[schema["$ref"]] if "$ref" in schema else schema
    kind, text = schema.get("type", "any"), schema.get("format", "")
    if kind == "string" and text in ("int64", "uint64") and type(value) is int:  # in JSON either will do
        return []
    if kind != "any" and (not isinstance(value, PYTHON_TYPES[kind]) or (kind == "integer") != (type(value) is int)):
        return [f"{where}: not of type {kind}: {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {', '.join(schema['enum'])}"]
    if kind == "array":
        return [
            error for i, item in enumerate(value) for error in google_errors(item, schema["items"], f"{where}[{i}]")
        ]
    errors = []
    for key, item in value.items() if kind == "object" else ():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        errors += google_errors(item, inner, f"{where}.{key}") if inner else [f"{where}.{key}: unknown"]
    return errors


GCP = LAUNCHER["gcp.yaml"]
GCP_NODES = GCP["available_node_types"]


@pytest.mark.parametrize("kind", GCP_NODES)
def test_compute_engine_accepts_the_nodes(kind: str) -> None:
    node = GCP_NODES[kind]["node_config"]
    assert google_errors(node, {"$ref": "Instance"}) == []
    zone = GCP["provider"]["availability_zone"]
    assert zone.startswith(GCP["provider"]["region"])
    assert f"zones/{zone}/" in node["disks"][0]["initializeParams"]["diskType"]
    for account in node.get("serviceAccounts", []):
        assert account["email"].endswith(f"@{GCP['provider']['project_id']}.iam.gserviceaccount.com")


@pytest.mark.parametrize(
    ("typo", "error"),
    [
        ({"machinType": "g2-standard-4"}, "node.machinType: unknown"),
        ({"scheduling": {"provisioningModel": "SPOTTY"}}, "node.scheduling.provisioningModel: 'SPOTTY' is none of"),
        ({"scheduling": [{"preemptible": True}]}, "node.scheduling: not of type object"),
        ({"disks": [{"initializeParams": {"diskSizeGB": 200}}]}, "node.disks[0].initializeParams.diskSizeGB: unknown"),
        ({"disks": [{"boot": 1}]}, "node.disks[0].boot: not of type boolean"),
    ],
)
def test_a_typo_in_a_compute_engine_node_is_caught(typo: dict[str, Any], error: str) -> None:
    (found,) = google_errors(GCP_NODES["worker"]["node_config"] | typo, {"$ref": "Instance"})
    assert found.startswith(error)


# -- KubeRay -------------------------------------------------------------------------------------------------

REQUIRED = {  # of ray.io/v1 RayJob; those that KubeRay fills in by itself are left out
    "": ("apiVersion", "kind", "metadata", "spec"),
    "metadata": ("name",),
    "spec": ("entrypoint", "rayClusterSpec"),
    "spec.rayClusterSpec": ("headGroupSpec", "rayVersion"),  # the version: for authOptions
}
REQUIRED_OF_WORKERS = ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template")


@pytest.mark.parametrize(("path", "keys"), REQUIRED.items())
def test_the_ray_job_has_what_its_schema_requires(path: str, keys: tuple[str, ...]) -> None:
    part = JOB
    for key in filter(None, path.split(".")):
        part = part[key]
    assert [key for key in keys if not part.get(key)] == []


def test_the_groups_have_what_the_schema_requires() -> None:
    head, *workers = GROUPS
    assert {"rayStartParams", "template"} <= set(head)
    assert workers
    for group in workers:
        assert set(REQUIRED_OF_WORKERS) <= set(group)
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_ray_job_is_of_the_installed_ray_and_asks_for_a_token() -> None:
    cluster = JOB["spec"]["rayClusterSpec"]
    assert f"\nray=={cluster['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True


def test_the_pods_have_image_resources_and_volumes() -> None:
    image = re.search(r"docker build .*-t (\S+)", (CLUSTERS / "README.md").read_text())
    (claim,) = (part for part in FILES["kuberay.yaml"] if part["kind"] == "PersistentVolumeClaim")
    pods = [part["spec"] for part in FILES["kuberay.yaml"] if part["kind"] == "Pod"]
    pods += [group["template"]["spec"] for group in GROUPS]
    assert image
    for pod in pods:
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        assert set(volumes.values()) == {claim["metadata"]["name"]}
        for container in pod["containers"]:
            assert container["image"] == image[1]
            wants, most = (container["resources"][kind] for kind in ("requests", "limits"))
            assert {"cpu", "memory"} <= set(wants) and "memory" in most
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes)
    (gpus,) = (group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in GROUPS[1:])
    assert gpus["nvidia.com/gpu"] == 1
    assert "command" not in GROUPS[0]["template"]["spec"]["containers"][0]  # KubeRay's own starts Ray


def test_the_pods_mlflow_listens_on_loopback() -> None:
    _, server = GROUPS[0]["template"]["spec"]["containers"]
    assert server["command"][0] == "mlflow"
    assert served(server["command"][1:])["host"] == "127.0.0.1"


def test_the_ray_job_runs_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    python, script, *words = shlex.split(JOB["spec"]["entrypoint"])
    assert (python, script) == ("python", "/home/ray/amsrc-bench/bench/sweep.py")
    args = understood(["sweep", *words], monkeypatch)
    assert on_the_head(args.cluster) == CLUSTERS / "kuberay.yaml"
    assert args.home.startswith("s3://") and args.results is None  # so records go to the home's results


# -- the plan ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_says_hours_and_cost(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = read_cluster(CLUSTERS / name)
    assert machine.gpus == 4 and machine.usd_per_gpu_hour and 0 < machine.usd_per_gpu_hour < 10
    settings: dict[str, int | float | str] = {"width": 16, "size": 32}
    about: dict[str, Any] = {"device": machine.name, "threads": None, "settings": settings, "unit": "cubes/s"}
    rows = [Row(stage=stage, **about, median=10.0, spread=0.0, repeats=3) for stage in ("train", "score")]
    monkeypatch.setattr(speeds, "read_speed", lambda *_: rows)
    made_up = Cubes(10_000, 100, "made up")
    monkeypatch.setattr(estimate, "cubes_of", lambda cells, _: {cell.store: made_up for cell in cells})
    words = ["sweep", "--toy", "--dry-run", "--home", str(tmp_path / "home"), "--cluster", str(CLUSTERS / name)]
    assert main(words) == 0
    out = capsys.readouterr().out
    hours, usd = (re.search(pattern, out, re.M) for pattern in (r"^hours +([\d.]+) ", r"^cost .*?([\d.]+) USD"))
    assert hours and float(hours[1]) > 0, out
    assert usd and float(usd[1]) > 0, out


# -- what the READMEs say ------------------------------------------------------------------------------------

PROGRAMS = ("amsrc-bench", "aws", "base64", "docker", "export", "gcloud", "kubectl", "make", "optuna-dashboard", "pip")
PROGRAMS += ("python", "ray", "rsync")


def words_of(text: str) -> Iterator[list[str]]:
    """The simple commands of shell code, those inside loops and $(...) too."""
    text = text.replace("\\\n", " ")
    while inner := re.search(r"\$\(([^()]*)\)", text):
        yield from words_of(inner[1])
        text = text.replace(inner[0], "RESULT")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";<>|&")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set(";<>|&"):
                command.append(word)
                continue
            while command and (command[0] == "do" or re.match(r"\w+=", command[0])):
                command = command[1:]
            if command and command[0] not in ("for", "done"):
                yield command
            command = []


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", (CLUSTERS / "README.md").read_text(), re.M | re.S)


def documented() -> Iterator[str]:
    """What stands in the two READMEs as a command: blocks, indented lines, and what is in backticks."""
    yield from blocks()
    text = (ROOT / "README.md").read_text()
    yield from re.findall(r"^ {4,}(\S.*)$", text, re.M)
    text += re.sub(r"^```.*?^```", "", (CLUSTERS / "README.md").read_text(), flags=re.M | re.S)
    for line in re.findall(r"`([^`]+)`", text):
        words = line.split()
        if words[0] in PROGRAMS and len(words) > 2:  # shorter ones are mentions
            yield " ".join(words)


DOCUMENTED = [words for text in dict.fromkeys(documented()) for words in words_of(text)]


def understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What this project's own parser makes of a command; it does not run."""
    seen: list[Any] = []
    noted = {name: (add, lambda args, _: seen.append(args) or 0, text) for name, (add, _, text) in COMMANDS.items()}
    monkeypatch.setattr(cli, "COMMANDS", noted)
    assert main(words) == 0
    return seen[0]


def on_the_head(path: Path | str) -> Path:
    """A path of the checkout on the head (from its home) as one of the checkout here."""
    inside = str(path).partition(CHECKOUT)
    assert inside[1], f"{path}: not in the checkout that the head has"
    return ROOT / inside[2]


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_every_documented_command_is_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for word in words:
        if re.fullmatch(r"(clusters|bench)/\S+", word):
            assert (ROOT / word).is_file(), f"{word}: no such file"
    if words[0] == "amsrc-bench":
        understood(words[1:], monkeypatch)
    elif words[0] == "python":
        understood([Path(words[1]).stem, *words[2:]], monkeypatch)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "ray":
        context = ray_context(words[1:])
        if words[1] == "submit":
            submitted(words, context, monkeypatch)
    else:
        assert words[0] in PROGRAMS, words


def ray_context(words: list[str]) -> click.Context:
    command = ray_cli.commands[words[0]]
    return command.make_context(words[0], words[1:])


def submitted(words: list[str], context: click.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the submitted script will see: Ray puts its words together with spaces, and the head's shell reads them."""
    given = list(context.params["script_args"])
    assert given == words[words.index("--") + 1 if "--" in words else len(words) :]  # none was taken for Ray's own
    content = LAUNCHER[Path(context.params["cluster_config_file"]).name]
    for variable in re.findall(r"\$(\w+)", " ".join(given)):
        assert any(f"{variable}=" in text for text in content["setup_commands"]), f"{variable} is set on no node"
    understood([Path(context.params["script"]).stem, *given], monkeypatch)
    settings = " ".join(content["setup_commands"])
    assert f"AMSRC_CLUSTER=$HOME/amsrc-bench/{context.params['cluster_config_file']}" in settings
    assert "AMSRC_HOME=s3://" in settings.replace("'", "") or "AMSRC_RESULTS=/" in settings, "records stay on the head"


def test_each_cluster_is_documented_from_nothing_and_back() -> None:
    way = ["up", "submit", "attach", "down"]
    for name in LAUNCHER:
        about = [words[1] for words in DOCUMENTED if words[0] == "ray" and f"clusters/{name}" in words]
        assert list(dict.fromkeys(word for word in about if word in way)) == way, name


def test_the_documented_blocks_are_shell_code() -> None:
    assert len(blocks()) >= 4
    for block in blocks():
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), block
