"""One Ray instance for all integration tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray as a command starts it on a host of its own; processes that a test starts join it.

    Not one that happens to run here already: two tests of the same code must not meet in it.
    """
    import ray

    from bench.cluster import connect

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", "local")
        connect()
        environment.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        yield
        ray.shutdown()
