"""The one place that starts or joins Ray and knows what the cluster has."""

from __future__ import annotations

import logging
import os


def connect() -> None:
    """Join the cluster of RAY_ADDRESS or of this host; where there is none, start one in this process.

    The dashboard of a cluster started here stays off; a joined cluster keeps its own.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # the first error is raised; a second is no news
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES for zero-GPU tasks
    import ray

    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says at every start that tokens are on
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)


def resources() -> dict[str, float]:
    """What the cluster has in all: {"CPU": 2.0, "GPU": 0.0, ...}."""
    import ray

    return {"CPU": 0.0, "GPU": 0.0, **ray.cluster_resources()}  # type: ignore[no-untyped-call]


def nodes() -> list[dict[str, float]]:
    """What each living node of the cluster has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
