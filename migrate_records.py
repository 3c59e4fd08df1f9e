"""Rewrites the records of schemas 1 to 4 into schema 1 of scores by named parts, once; deleted afterwards.

    python migrate_records.py results

Experiments get the settings of their method and weights one a part, so their fingerprints change; files are renamed with
them. Of equal experiments the latest record stays. What records of schema 2 and 3 lack and their frame scores have (equal
error rate, F1, interval) is computed here, as the tables did.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.evaluation import bootstrap
from bench.evaluation.metrics import equal_error, pooled
from bench.experiment.config import dump, fingerprint, load, run_key
from bench.methods import catalogue
from bench.records.json_file import as_json
from bench.records.records import read, read_frame_scores

OLD_PARTS = {"f": "consistency", "p": "prediction"}


def experiment_of(old: dict[str, Any]) -> dict[str, Any]:
    """The experiment of an old record in today's form."""
    trained = old["method"] == "amsrc"
    one = not trained or old["model"]["fusion"] == "none"
    score = {name: value for name, value in old["score"].items() if name not in ("weight_f", "weight_p")}
    weights = [old["score"]["weight_p"]] if one else [old["score"]["weight_f"], old["score"]["weight_p"]]
    kept = {name: old[name] for name in ("recipe", "dataset", "seed", "method", "label_set", "partial", "cube")}
    settings = {"model": old["model"], "loss": old["loss"]} if trained else {}
    train = {"held_out": 0.0, **old["train"]}
    return dump(load({**kept, "settings": settings, "train": train, "score": {"weights": weights, **score}}))


def weighted(choice: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """A choice of epoch and share as one of epoch and weights."""
    found = {name: value for name, value in choice.items() if name not in ("share_f", "folds")}
    if "share_f" in choice or "epoch" in choice:
        share = choice.get("share_f")
        of_parts = {parts[0]: share, parts[1]: 1 - share} if share is not None and len(parts) == 2 else {parts[-1]: 1.0}
        found["weights"] = None if choice.get("epoch") is None else of_parts
    if "folds" in choice:
        found["folds"] = [weighted(fold, parts) for fold in choice["folds"]]
    return found


def record_of(old: dict[str, Any]) -> dict[str, Any]:
    """An old record's keys in today's form."""
    if old["schema_version"] == 1:
        names = ("auroc", "auroc_f", "auroc_p", "macro_auroc", "macro_videos", "average_precision")
        old = {**old, "metrics": {name: old.pop(name) for name in names if name in old}}
    experiment = experiment_of(old["experiment"])
    value = load(experiment)
    parts = list(value.parts)
    alone = {part: old["metrics"].get(f"auroc_{letter}") for letter, part in OLD_PARTS.items()}
    if not value.learns:
        alone = {parts[0]: old["metrics"].get("auroc_p")}
    epochs = []
    for line in old.get("epochs", []):
        new = {name: v for name, v in line.items() if name not in ("auroc_f", "auroc_p")}
        if "auroc" in line:
            found = {OLD_PARTS[letter]: line.get(f"auroc_{letter}") for letter in OLD_PARTS}
            new["parts"] = {part: found[part] for part in parts}
        epochs.append({"epoch": new.pop("epoch"), "phase": "train", **new})
    curve = old.get("fusion") or {}
    fusion = {}
    if curve:
        names = {"share_f": "share", "paper_share": "own_share", "paper_auroc": "own_auroc"}
        fusion = {"part": parts[0], **{names.get(name, name): v for name, v in curve.items()}}
    metrics = {name: v for name, v in old["metrics"].items() if name not in ("auroc_f", "auroc_p")}
    rules = {rule: weighted(choice, parts) for rule, choice in (old.get("rules") or {}).items()}
    order = ["schema_version", "recipe", "dataset", "seed", "fingerprint", "run", "status", "error", "rule", "metrics"]
    new = {
        **old,
        "schema_version": 1,
        "fingerprint": fingerprint(value),
        "run": run_key(value),
        "metrics": metrics,
        "parts": {part: alone[part] for part in parts} if old["status"] == "done" else {},
        "rules": rules,
        "fusion": fusion,
        "epochs": epochs,
        "learns": catalogue.find(value.method).learns,
        "experiment": experiment,
    }
    order += ["parts", "rules", "fusion", "epochs"]
    last = ["learns", "experiment"]
    middle = [name for name in new if name not in (*order, *last)]
    return {name: new[name] for name in (*order, *middle, *last) if name in new}


def rewrite(results: Path) -> dict[str, str]:
    """Rewrite one folder of results; gives new fingerprints by old ones."""
    names: dict[str, str] = {}
    kept: dict[Path, tuple[str, str]] = {}
    for path in sorted((results / "records").glob("*/*/*.json")):
        old = json.loads(path.read_text())
        new = record_of(old)
        names[old["fingerprint"]] = new["fingerprint"]
        target = path.with_name(f"seed{new['seed']}-{new['fingerprint']}.json")
        scores = results / "scores" / path.parent.relative_to(results / "records")
        source = scores / f"{path.stem}.npz"
        path.unlink()
        if target in kept and kept[target][0] >= new["finished"]:
            source.unlink(missing_ok=True)
            print(f"superseded: {path.stem} by {kept[target][1]}")
            continue
        kept[target] = new["finished"], path.stem
        target.write_bytes(as_json(new))
        if source.is_file():
            source.replace(scores / f"{target.stem}.npz")
        record = read(target)
        if record.status == "done" and "eer" not in record.metrics:
            found = read_frame_scores(results, record)
            eer, f1 = equal_error(*pooled(*found))
            ends = bootstrap.auroc_interval([found[0]], found[1])
            more = {"auroc_interval": ends and list(ends), "eer": eer, "f1_at_eer": f1}
            target.write_bytes(as_json({**new, "metrics": {**new["metrics"], **more, "rbdc": None, "tbdc": None}}))
            read(target)
    return names


def main(results: Path) -> None:
    names = rewrite(results)
    for search in sorted((results / "searches").glob("*/search.json")):
        names |= rewrite(search.parent)
    for search in sorted((results / "searches").glob("*/search.json")):
        text = search.read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        data = json.loads(text)
        parts = ["consistency", "prediction"]
        data["chosen"] = {d: {r: weighted(c, parts) for r, c in rules.items()} for d, rules in data["chosen"].items()}
        search.write_bytes(as_json(data))
    for path in sorted((results / "speed" / "precision").glob("*.json")):
        new = record_of(json.loads(path.read_text()))
        names[path.stem.partition("-")[2]] = new["fingerprint"]
        path.unlink()
        path.with_name(f"seed{new['seed']}-{new['fingerprint']}.json").write_bytes(as_json(new))
    for folder in ("smoothing", "figures"):
        for path in sorted((results / folder).glob("*/*/seed*")):
            seed, _, old = path.stem.rpartition("-")
            if old in names:
                target = path.with_name(f"{seed}-{names[old]}{path.suffix}")
                path.replace(target)
                if target.is_file():
                    target.write_text(target.read_text().replace(old, names[old]))
    for path in sorted((results / "figures").glob("*/*/*/parts.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            found = {re.sub(r"s_([fp])$", lambda m: OLD_PARTS[m[1]], name): arrays[name] for name in arrays.files}
        np.savez_compressed(path, **found)
    for path in [Path("README.md"), *results.glob("*.md"), results / "speed" / "LOG.md", *Path("docs").glob("*.md")]:
        text = path.read_text()
        for old, new in names.items():
            text = text.replace(old, new)
        path.write_text(text)
    for old, new in names.items():
        print(old, "->", new)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
