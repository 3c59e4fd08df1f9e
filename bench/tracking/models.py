"""Trained methods in MLflow: a logged model for each run, and versions of it under the names of selection rules.

`bench.tracking.runs` calls this and meets the failures of the store. Versions belong to the registered model of their
data set, `amsrc-<dataset>`. MLflow and torch are imported when the first model is logged.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from amsrc.errors import RunError
from bench.experiment.config import Experiment, load
from bench.experiment.specs import spec_of
from bench.records.names import title

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

    from bench.methods.interface import Learner
    from bench.records.records import RunRecord
    from bench.training.scoring import Program

    Example = tuple[torch.Tensor, torch.Tensor]

log = logging.getLogger(__name__)


def log_learner(client: MlflowClient, run: Run, record: RunRecord, learner: Learner) -> str | None:
    """Log a learner as a model of its own that belongs to the run; gives its id.

    The model is a program from stored cubes to the parts of their scores, for any number of cubes:
    `mlflow.pytorch.load_model("models:/<id>")(frames, flows)` gives a tuple of the parts in the order of the run's
    experiment (`bench.training.scoring.Program`). MLflow serves programs of one tensor only, so this one has no
    `pyfunc` flavour. A learner that cannot be exported costs a warning and is left out; the run is logged without it.

    Args:
        learner: of the record's experiment, its networks on the CPU.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    run_id = run.info.run_id
    name = re.sub(r"[^\w-]+", "-", title(record))
    logged = client.create_logged_model(run.info.experiment_id, name, run_id)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        about = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
        try:
            _export(load(record.experiment), learner, path, about)
        except RunError as error:
            log.warning("MLflow: %s is logged without its model: %s", title(record), str(error).partition("\n")[0])
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            return None
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _export(e: Experiment, learner: Learner, path: Path, about: Any) -> None:
    """Write the learner as an MLflow model folder, for any number of cubes.

    Raises:
        RunError: it cannot be traced, or the disk is full (torch calls both `RuntimeError`).
    """
    import mlflow.pytorch
    import torch

    from bench.training.scoring import Program

    program, example = Program(e, learner), _example(e)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)  # weights on the CPU are fine
            mlflow.pytorch.save_model(
                program,
                str(path),
                mlflow_model=about,
                signature=_signature(program, example),
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch.__version__}"],  # else MLflow loads the model again to find out
            )
    except RuntimeError as error:
        raise RunError(f"the model could not be exported: {error}") from error


def _example(e: Experiment) -> Example:
    """Frames and flows of two cubes as the data set's are stored; a batch of 1 would be built into the program."""
    import torch

    frames, size, channels = e.cube.frames, e.cube.size, 1 if spec_of(e.dataset).grey else 3
    return (
        torch.zeros(2, frames, channels, size, size, dtype=torch.uint8),
        torch.zeros(2, frames - 1, 2, size, size, dtype=torch.float16),
    )


def _signature(program: Program, example: Example) -> Any:
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        scores = program(*example)

    def schema(names: tuple[str, ...], tensors: tuple[torch.Tensor, ...]) -> Schema:
        arrays = [tensor.numpy() for tensor in tensors]
        return Schema([TensorSpec(a.dtype, (-1, *a.shape[1:]), name) for name, a in zip(names, arrays, strict=True)])

    return ModelSignature(schema(("frames", "flows"), example), schema(program.parts, scores))


def register(client: MlflowClient, run: Run, rule: str, record: RunRecord) -> str | None:
    """Give the run's network a version if it has none, and the rule's alias if its number is one of these weights.

    The weights are those of the last epoch. Of a rule that took an earlier one the version's description says so, and
    an alias that it had is removed.

    Returns:
        The version; None for a run without a network.
    """
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        return None
    models = [client.get_logged_model(output.model_id) for output in outputs]  # one each time it was measured
    version = _version_of(client, record, max(models, key=lambda model: int(model.creation_timestamp)))
    if epochs_of(record, rule) == [last_epoch(record)]:
        client.set_registered_model_alias(version.name, rule, version.version)
    else:
        client.delete_registered_model_alias(version.name, rule)
    return str(version.version)


def last_epoch(record: RunRecord) -> int:
    """The epoch whose weights a run keeps; 0 where nothing is trained by epochs."""
    return load(record.experiment).epochs


def epochs_of(record: RunRecord, rule: str) -> list[int]:
    """The epochs, each once, that a rule read a run's number from; none where it has no number."""
    read = record.rules.get(rule, {})
    found = {choice.get("epoch") for choice in read.get("folds", [read])}
    return sorted(epoch for epoch in found if epoch is not None)


def _version_of(client: MlflowClient, record: RunRecord, model: LoggedModel) -> ModelVersion:
    """The version that is this model, in the registered model of its data set; made if there is none yet."""
    name = f"amsrc-{record.dataset}"
    if not client.search_registered_models(f"name = '{name}'"):
        about = (
            f"Networks measured on {record.dataset}. An alias is a selection rule; its version has the weights that "
            "gave the rule's number. A rule that took an epoch before the last has no alias: see the versions."
        )
        client.create_registered_model(name, description=about)
    for version in client.search_model_versions(f"run_id = '{model.source_run_id}'"):
        if (version.name, version.source) == (name, model.artifact_location):
            return version
    # Its files by their address: `models:/<id>` is looked up in MLflow's global store, which need not be this one.
    version = client.create_model_version(
        name,
        model.artifact_location,
        model.source_run_id,
        _version_tags(record),
        description=_about_version(record),
        await_creation_for=0,
        model_id=model.model_id,
    )
    shown = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": shown})  # links the model to its version
    return version


def _version_tags(record: RunRecord) -> dict[str, object]:
    """A description of the model: by rule the AUROC of the run, with the epoch and the weights of parts behind it."""
    tags = {"recipe": record.recipe, "dataset": record.dataset, "seed": record.seed}
    tags |= {"fingerprint": record.fingerprint, "epoch": last_epoch(record)}
    for rule, read in record.rules.items():
        tags |= {f"{rule}/{name}": read[name] for name in ("auroc", "epoch") if read.get(name) is not None}
        if weights := read.get("weights"):
            tags[f"{rule}/weights"] = ", ".join(f"{part} {weight:g}" for part, weight in weights.items())
    return tags


def _about_version(record: RunRecord) -> str:
    last = last_epoch(record)
    head = f"{title(record)}: the weights after the last epoch, {last}." if last else f"{title(record)}: as fitted."
    if not record.rules or not last:
        return f"{head}\n\n{choices(record)}".rstrip()
    taken = {rule: ", ".join(map(str, epochs)) for rule in record.rules if (epochs := epochs_of(record, rule))}
    elsewhere = [f" {rule.capitalize()} took epoch {epochs}." for rule, epochs in taken.items() if epochs != str(last)]
    return (
        f"{head}\n\nA rule reads its AUROC from the epoch and under the weights of the score's parts in its row. Only "
        f"what it read from epoch {last} is a number of these weights, and only then is the rule an alias of them; "
        f"weights of other epochs are not kept here.{''.join(elsewhere)}\n\n{choices(record)}"
    )


def choices(record: RunRecord) -> str:
    """What each rule chose for a run, as a table in Markdown; under `crossfit` one choice a fold."""
    if not record.rules:
        return ""
    parts = load(record.experiment).parts
    weighed = parts if len(parts) > 1 else ()

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    rows = [["rule", "AUROC", "epoch", *(f"weight of {part}" for part in weighed)]]
    rows.append(["---"] * len(rows[0]))
    for rule, read in record.rules.items():
        chosen = read.get("folds", [read])
        weights = [choice.get("weights") or {} for choice in chosen]
        epochs = ", ".join(shown(choice.get("epoch"), 0) for choice in chosen)
        by_part = (", ".join(shown(each.get(part), 3) for each in weights) for part in weighed)
        rows.append([rule, shown(read.get("auroc"), 4), epochs, *by_part])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
