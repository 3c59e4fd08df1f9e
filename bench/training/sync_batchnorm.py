"""BatchNorm over the batch of all workers, for CPUs: torch's SyncBatchNorm needs GPUs.

Two workers then normalise as one worker with their batch does, and their gradients are that worker's.

Axes: B cubes of this worker, C channels, H W pixels. Workers may hold different numbers of cubes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of all workers' cubes together.

    Parameters, buffers and their names are those of `nn.BatchNorm2d`; so is the evaluation.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise; every worker must call it equally often, since each waits for the others."""
        if not self.training:
            return super().forward(x_BCHW)
        y_BCHW, mean, variance, count = _Normalise.apply(x_BCHW, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return y_BCHW  # type: ignore[no-any-return]


def over_all_workers(network: nn.Module) -> None:
    """Put `BatchNorm` in the place of every `nn.BatchNorm2d`; do it before an optimiser takes the parameters."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                ours = BatchNorm(child.num_features, child.eps, child.momentum)
                ours.load_state_dict(child.state_dict())
                setattr(parent, name, ours)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias; gives also mean (C,), variance (C,), values a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        running = torch.zeros_like(weight)  # left as it is, but in its precision the kernel answers
        mean, variance = torch.batch_norm_update_stats(x, running, running, 0.0)
        mean, variance, count = _together(mean, variance, torch.full_like(mean, x.numel() / len(mean)))
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        y = torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, eps, False)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # torch's own kernel for given statistics is seven times as fast as the same in tensor operations.
        given = (None, None, False, ctx.eps, [True, True, True])
        dx, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(dy, x, weight, mean, variance, *given)
        # The statistics depend on every worker: their effect on the others' losses counts here too.
        sums = torch.stack([d_bias, d_weight])
        dist.all_reduce(sums)
        through_mean, through_variance = sums / count
        scale = torch.rsqrt(variance + ctx.eps)
        slope, shift, one = weight * scale**2 * through_variance, weight * scale * through_mean, torch.ones_like(mean)
        dx -= torch.batch_norm(x, slope, shift, mean, one, False, 0.0, 0.0, False)  # (x - mean) * slope + shift
        return dx, d_weight, d_bias, None


def _together(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count of all workers' values from those of each; without the cancellation of E x² - (E x)²."""
    mine = torch.stack([mean, variance, count])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    means, variances, counts = torch.stack(parts, dim=1)
    whole = counts.sum(0)
    mean = (means * counts).sum(0) / whole
    variance = ((variances + (means - mean).square()) * counts).sum(0) / whole
    return mean, variance, whole
