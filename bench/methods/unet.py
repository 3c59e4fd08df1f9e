"""The encoder-decoder that reconstructing and predicting methods share, with its options.

Axes: B cubes, C channels, H W pixels. Blocks are those of `amsrc.model`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amsrc.model import Doubling, conv, double_conv

LEVELS = 3
"""Times that the size is halved: cubes of 32 pixels have 4 x 4 at the bottom."""


class AutoEncoder(nn.Module):
    """Three times two convolutions and max pooling down to a narrow code, mirrored back up. No skips, linear output.

    Weights start as N(0, 0.02), as in MemAE's released code; biases at 0, BatchNorm at 1 and 0.
    """

    def __init__(self, channels: int, width: int, code: int) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip([channels, *widths], widths, strict=False))
        self.narrow = nn.Sequential(*conv(widths[-1], code))
        self.widen = nn.Sequential(*conv(code, widths[-1]))
        pairs = list(zip([widths[-1], *widths[:0:-1]], widths[::-1], strict=True))
        self.ups = nn.ModuleList(Doubling(wide, narrow) for wide, narrow in pairs)
        self.levels = nn.ModuleList(double_conv(narrow, narrow) for _, narrow in pairs)
        self.head = nn.Conv2d(width, channels, 1)
        self.apply(_initialise)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The same shape again, float32."""
        x = x_BCHW
        for level in self.down:
            x = nn.functional.max_pool2d(level(x), 2)
        x = self.widen(self.narrow(x))
        for up, level in zip(self.ups, self.levels, strict=True):
            x = level(up(x))
        with torch.autocast(x.device.type, enabled=False):  # bf16 would round a picture to 1/256
            return self.head(x.to(self.head.weight.dtype))  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
