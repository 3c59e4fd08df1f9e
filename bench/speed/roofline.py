"""Roofline of this machine: its measured peak rates and the network's operations and bytes give a limit in cubes/s.

Independent of how the network is trained. Operations are counted by torch; bytes are those of an ideal
implementation that moves every convolution's output once in each direction of the step and rereads it once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amsrc.config import CubeConfig, ModelConfig
from amsrc.model import AMSRC
from bench.speed.timing import timed

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
CHANNELS, PIXELS = 256, 32  # of the large convolution
CONV_BATCH = {"cpu": 32, "cuda": 512}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Rates:
    """Seconds of each repeat, and how much was done in them."""

    seconds: list[float]
    amount: float
    """FLOP or bytes."""

    @property
    def per_s(self) -> float:
        """The best repeat's."""
        return self.amount / min(self.seconds)


def matmul(device: torch.device, precision: str, quick: bool) -> Rates:
    """FLOP/s of a product of two large square matrices."""
    side = SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device, dtype=DTYPES[precision])
    return Rates(timed(lambda: a @ b, quick, device), 2 * side**3)


def convolution(device: torch.device, precision: str, quick: bool) -> Rates:
    """FLOP/s of a large 3x3 convolution, channels last."""
    batch, last = CONV_BATCH[device.type], torch.channels_last
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False).to(device, DTYPES[precision], memory_format=last)  # type: ignore[call-overload]
    x = torch.randn(batch, CHANNELS, PIXELS, PIXELS, device=device, dtype=DTYPES[precision])
    x = x.contiguous(memory_format=last)

    def call() -> None:
        with torch.inference_mode():
            layer(x)

    return Rates(timed(call, quick, device), 2 * 9 * CHANNELS**2 * PIXELS**2 * batch)


def copy(device: torch.device, quick: bool) -> Rates:
    """Bytes read and written in a second by copying one large tensor to another."""
    source = torch.ones(COPIED_BYTES[device.type], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Rates(timed(lambda: target.copy_(source), quick, device), 2 * source.numel())


def work(config: ModelConfig, cube: CubeConfig, precision: str, training: bool) -> tuple[float, float]:
    """FLOP and bytes of one cube, in a training step or in scoring."""
    batch, history = 4, cube.frames - 1
    network, elements = AMSRC(config, cube), 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        output = network(
            torch.rand(batch, history * config.channels, cube.size, cube.size),
            torch.rand(batch, history * 2, cube.size, cube.size),
        )
        if training:
            features = [feature for feature in output[1:] if feature is not None]
            (output.prediction.sum() + sum(feature.sum() for feature in features)).backward()
    moves = 5 if training else 2  # written and read; then read again, its gradient written and read
    size = DTYPES[precision].itemsize
    return counter.get_total_flops() / batch, moves * elements * size / batch


def limit(flop: float, moved: float, flop_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    """Cubes/s, and which of the two allows no more."""
    by_compute, by_memory = flop_per_s / flop, bytes_per_s / moved
    if by_compute <= by_memory:
        return by_compute, f"{flop / 1e9:.3g} GFLOP a cube"
    return by_memory, f"{moved / 1e6:.3g} MB moved a cube"
