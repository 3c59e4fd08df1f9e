"""The settings of the methods other than AMSRC (`amsrc.config`), every number with its source. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class VelocityModel:
    """Feature and density of AI-VAD's velocity part."""

    directions: int = 8
    """Sectors in which the flow's length is averaged: 8, on ped2 1 (released)."""
    components: int = 5
    """Gaussians of the mixture: 5, on ped2 2 (released)."""


@dataclass(frozen=True, kw_only=True)
class VelocityGmmConfig:
    """Settings of `velocity-gmm`."""

    model: VelocityModel = field(default_factory=VelocityModel)
    """What is measured of a cube, and the density of that."""


@dataclass(frozen=True, kw_only=True)
class ConvAeModel:
    """An autoencoder of cubes."""

    input: Literal["frames", "flows"] = "frames"
    """What is reconstructed: all frames of a cube, or all its flows."""
    width: int = 32
    """Channels of the first level, doubled twice."""
    code: int = 64
    """Channels of the code at an eighth of the size; a wide code copies."""
    channels: int = 3
    """Channels of a frame as the network sees it; grey cubes are repeated to three."""
    flow_scale: tuple[float, float] = (1.0, 1.0)
    """Factors (x, y) on flows in native pixels per frame."""


@dataclass(frozen=True, kw_only=True)
class ConvAeConfig:
    """Settings of `conv-ae`."""

    model: ConvAeModel = field(default_factory=ConvAeModel)
    """The network and what it sees."""
