"""BatchNorm over two processes against torch's over the whole batch in one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.training.sync_batchnorm import BatchNorm, over_all_workers

ROOT = Path(__file__).resolve().parents[2]
SHARES = ([0, 1, 2, 3, 4], [5, 6])  # of seven cubes


def layer() -> nn.BatchNorm2d:
    """One that has seen something, with weights that show which channel is which."""
    found = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        found.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        found.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
        found.running_mean.copy_(torch.tensor([7.0, 8.0, 9.0]))
    return found


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Values far from zero, where a variance by squares would lose its digits, and gradients from behind."""
    generator = torch.Generator().manual_seed(seed)
    x, dy = torch.randn(2, 7, 3, 4, 5, generator=generator)
    return x * 0.5 + 50, dy


def two_steps(norm: nn.Module, rows: list[int]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    norm.train()
    for step in range(2):
        x, dy = (values[rows].contiguous(memory_format=torch.channels_last) for values in batch(step))
        x.requires_grad_()
        y = norm(x)
        y.backward(dy)
        assert x.grad is not None
        found |= {f"y{step}": y.detach(), f"dx{step}": x.grad}
    found |= {f"d_{name}": parameter.grad for name, parameter in norm.named_parameters() if parameter.grad is not None}
    found |= dict(norm.named_buffers())
    norm.eval()
    return found | {"evaluated": norm(batch(2)[0]).detach()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    network = nn.Sequential(layer())
    over_all_workers(network)
    torch.save(two_steps(network[0], SHARES[rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("gloo")
    with pytest.MonkeyPatch.context() as here:
        here.syspath_prepend(str(ROOT))  # where the processes find this module
        torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_workers_normalise_as_one_does(both: list[dict[str, Tensor]]) -> None:
    alone = two_steps(layer(), list(range(7)))
    for name in ("y0", "dx0", "y1", "dx1"):
        together = torch.cat([found[name] for found in both])
        torch.testing.assert_close(together, alone[name], rtol=1e-4, atol=1e-4)
    for name in ("d_weight", "d_bias"):  # each worker has its cubes' share
        torch.testing.assert_close(both[0][name] + both[1][name], alone[name], rtol=1e-4, atol=2e-4)
    for found in both:
        torch.testing.assert_close(found["evaluated"], alone["evaluated"], rtol=1e-4, atol=1e-4)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(found[name], alone[name], rtol=1e-5, atol=1e-7)


def test_workers_keep_the_same_statistics_to_the_last_bit(both: list[dict[str, Tensor]]) -> None:
    """So nobody need send them round before the network is scored or saved."""
    for name in ("running_mean", "running_var"):
        assert torch.equal(both[0][name], both[1][name])


def test_each_on_its_own_would_differ(both: list[dict[str, Tensor]]) -> None:
    """The comparison above can fail."""
    apart: Any = two_steps(layer(), SHARES[1])
    assert not torch.allclose(apart["y0"], both[1]["y0"], rtol=1e-2, atol=1e-2)


def test_a_networks_layers_keep_their_state_and_its_names(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sequential(layer(), nn.ReLU()))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    over_all_workers(network)
    norm = network[1][0]
    assert isinstance(norm, BatchNorm)
    assert (norm.eps, norm.momentum) == (1e-3, 0.3)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
