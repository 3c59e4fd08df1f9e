"""The networks in MLflow: a logged model for each cell, and versions of it under the names of selection rules.

`bench.tracking.runs` calls this and meets the failures of the store. Versions belong to the registered model of their
data set, `amsrc-<dataset>`. MLflow and torch are imported when the first network is logged.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from amsrc.errors import RunError
from bench.experiment.config import load
from bench.records.names import title

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

    from bench.records.records import RunRecord

log = logging.getLogger(__name__)


def log_network(
    client: MlflowClient, run: Run, title: str, network: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> str | None:
    """Log a network as a model of its own that belongs to the run; gives its id.

    MLflow serves programs of one tensor only, so this one has no `pyfunc` flavour:
    `mlflow.pytorch.load_model("models:/<id>")(appearance, motion)` runs it. A network that cannot be exported
    costs a warning and is left out; the run is logged without it.

    Args:
        title: of the cell; also the model's name, with dashes for all but letters and digits.
        example: one input each, at least 2 cubes.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    run_id = run.info.run_id
    logged = client.create_logged_model(run.info.experiment_id, re.sub(r"[^\w-]+", "-", title), run_id)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        about = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
        try:
            _export(network, example, path, about)
        except RunError as error:
            log.warning("MLflow: %s is logged without its network: %s", title, str(error).partition("\n")[0])
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            return None
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _export(model: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path, about: Any) -> None:
    """Write the network as an MLflow model folder, for any number of cubes.

    Raises:
        RunError: it cannot be traced, or the disk is full (torch calls both `RuntimeError`).
    """
    import mlflow.pytorch
    import torch

    class Plain(torch.nn.Module):
        """The network with a plain tuple as its output; a program cannot name our own."""

        def __init__(self) -> None:
            super().__init__()
            self.network = deepcopy(model).cpu().eval()

        def forward(self, appearance: torch.Tensor, motion: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(tensor for tensor in self.network(appearance, motion) if tensor is not None)

    plain = Plain()
    inputs = tuple(tensor.detach().cpu() for tensor in example)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)  # weights on the CPU are fine
            mlflow.pytorch.save_model(
                plain,
                str(path),
                mlflow_model=about,
                signature=_signature(plain, inputs),
                input_example=inputs,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch.__version__}"],  # else MLflow loads the model again to find out
            )
    except RuntimeError as error:
        raise RunError(f"the model could not be exported: {error}") from error


def _signature(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.no_grad():
        outputs = model(*inputs)

    def schema(names: tuple[str, ...], tensors: tuple[torch.Tensor, ...]) -> Schema:
        arrays = [tensor.numpy() for tensor in tensors]
        return Schema([TensorSpec(a.dtype, (-1, *a.shape[1:]), name) for name, a in zip(names, arrays, strict=False)])

    named = ("prediction", "appearance_feature", "motion_feature")
    return ModelSignature(schema(("appearance", "motion"), inputs), schema(named, outputs))


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
    """The epoch whose weights a run keeps."""
    return load(record.experiment).train.epochs


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
    """What the weights are, and by rule what the cell reached and from which epoch and share that was read."""
    tags = {"recipe": record.recipe, "dataset": record.dataset, "seed": record.seed}
    tags |= {"fingerprint": record.fingerprint, "epoch": last_epoch(record)}
    for rule, read in record.rules.items():
        for name in ("auroc", "epoch", "share_f"):
            if read.get(name) is not None:
                tags[f"{rule}/{name}"] = read[name]
    return tags


def _about_version(record: RunRecord) -> str:
    last = last_epoch(record)
    head = f"{title(record)}: the weights after the last epoch, {last}."
    if not record.rules:
        return head
    taken = {rule: ", ".join(map(str, epochs)) for rule in record.rules if (epochs := epochs_of(record, rule))}
    elsewhere = [f" {rule.capitalize()} took epoch {epochs}." for rule, epochs in taken.items() if epochs != str(last)]
    return (
        f"{head}\n\nA rule reads its AUROC from the epoch and the share of S_f in its row. Only what it read from "
        f"epoch {last} is a number of these weights, and only then is the rule an alias of them; weights of other "
        f"epochs are not kept here.{''.join(elsewhere)}\n\n{choices(record)}"
    )


def choices(record: RunRecord) -> str:
    """What each rule chose in a cell, as a table in Markdown; under `crossfit` one choice a fold."""

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    lines = []
    for rule, read in record.rules.items():
        chosen = read.get("folds", [read])
        epochs = ", ".join(shown(choice.get("epoch"), 0) for choice in chosen)
        shares = ", ".join(shown(choice.get("share_f"), 3) for choice in chosen)
        lines.append(f"| {rule} | {shown(read.get('auroc'), 4)} | {epochs} | {shares} |")
    return "\n".join(["| rule | AUROC | epoch | share of S_f |", "|---|---|---|---|", *lines]) if lines else ""
