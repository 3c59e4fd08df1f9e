"""The keys that every record has, however its run ended: experiment, cubes, labels, code and machine.

Reads manifests and logs of runs, writes nothing. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from amsrc.store import Sealed
from bench.experiment.config import Experiment, dump, fingerprint, run_key
from bench.records import provenance
from bench.records.provenance import now
from bench.records.records import RunRecord
from bench.records.run_folder import history
from bench.storage.places import Place


def origin(experiment: Experiment, store: Sealed | None, log: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys of a record that say what was run and where its numbers come from, however it ended.

    Args:
        store: the cubes; None where they could not be opened.
        log: one dict an epoch (`bench.records.run_folder.history`); where there is one, its hardware is the record's.
    """
    sources = store.manifest["sources"] if store else {}
    cube = experiment.cube
    trained = ", ".join(dict.fromkeys(line["code"] for line in log)) or None
    return {
        "recipe": experiment.recipe,
        "dataset": experiment.dataset,
        "seed": experiment.seed,
        "fingerprint": fingerprint(experiment),
        "run": run_key(experiment),
        "hardware": log[-1]["hardware"] if log else provenance.hardware(),
        "versions": provenance.versions(),
        "git": {**provenance.git(), "trained": trained},
        "store": store.sha256 if store else None,
        "labels": store.labels_sha256(experiment.label_set) if store else None,
        "regions": regions_sha256(store, experiment.label_set) if store else None,
        "boxes": _named(cube.boxes.provider, sources.get("boxes")),
        "flow": _named(cube.flow.provider, sources.get("flow")),
        "label_set": experiment.label_set,
        "partial": experiment.partial,
        "videos": [shard.video for shard in store.shards("test")] if store and experiment.partial else [],
        "learns": experiment.learns,
        "experiment": dump(experiment),
    }


def regions_sha256(store: Sealed, label_set: str) -> str | None:
    """Digest of the abnormal regions that go with a label set: they are read off the masks of the official one."""
    return store.regions_sha256 if label_set == "official" else None


def told(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log as a record has it: code and hardware are elsewhere in it."""
    return [{name: value for name, value in line.items() if name not in ("code", "hardware")} for line in log]


def unfinished(
    experiment: Experiment,
    store: Sealed | None,
    folder: Place,
    status: Literal["failed", "pruned"],
    reason: str,
    started: str,
) -> RunRecord:
    """The record of a run that gave no number: why, and the epochs it had."""
    log = history(folder)
    return RunRecord(
        status=status,
        error=reason,
        epochs=told(log),
        **origin(experiment, store, log),
        started=started,
        finished=now(),
    )


def _named(provider: str, digest: str | None) -> str:
    return f"{provider}:{digest[:12]}" if digest else provider
