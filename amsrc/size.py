"""How large the network is, counted from its configuration. No torch, so that a sweep can be planned without."""

from __future__ import annotations

from itertools import pairwise

from amsrc.config import CubeConfig, ModelConfig


def parameters(model: ModelConfig, cube: CubeConfig) -> int:
    """Parameters of the network that `amsrc.model` builds: convolutions with their biases, and BatchNorm."""
    history, widths = cube.frames - 1, [model.width * factor for factor in (1, 2, 4, 8)]

    def conv(i: int, o: int, kernel: int = 9, norm: bool = True) -> int:
        return i * o * kernel + o + (2 * o if norm else 0)

    def double(i: int, o: int) -> int:
        return conv(i, o) + conv(o, o)

    found = sum(double(i, o) for i, o in zip([history * model.channels, *widths], widths, strict=False))
    if model.fusion != "none":
        found += sum(conv(i, o) for i, o in zip([2 * history, *widths], widths, strict=False))
    if model.fusion == "concat":
        found += conv(2 * widths[-1], widths[-1], kernel=1, norm=False)
    for i, o in pairwise(reversed(widths)):
        found += conv(i, o, kernel=4, norm=False) + double(i, o)
    return found + conv(widths[0], model.channels, kernel=1, norm=False)
