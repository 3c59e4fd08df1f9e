"""The two-stream network with gated fusion, and the ablations of Table 2 (paper figure 2).

Reads normalised cubes, gives the predicted frame and the two features whose agreement is the score S_f.

Axes: B cubes, C channels, H W pixels. At width 64 a feature is 512 x 4 x 4 for cubes of 32 pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amsrc.config import CubeConfig, ModelConfig
from amsrc.errors import ConfigError


class Output(NamedTuple):
    """Output of the network for a batch of cubes."""

    prediction: Tensor  # (B, channels, H, W) in (0, 1)
    appearance: Tensor  # (B, 8 width, H/8, W/8), not negative
    motion: Tensor | None  # the same shape; None without a motion stream


class AMSRC(nn.Module):
    """Appearance encoder, motion encoder, fusion of their features and a decoder with skips.

    The skips come from the appearance encoder alone. Weights start as in the released code: Kaiming normal
    (a = 0.1, fan in) for convolutions, N(1, 0.02) for BatchNorm, zero biases, PyTorch's default for
    transposed convolutions.
    """

    def __init__(self, config: ModelConfig, cube: CubeConfig | None = None) -> None:
        super().__init__()
        history = (cube or CubeConfig()).frames - 1
        widths = [config.width * factor for factor in (1, 2, 4, 8)]
        self.fusion = config.fusion
        self.appearance_encoder = AppearanceEncoder(history * config.channels, widths)
        self.motion_encoder = None if config.fusion == "none" else motion_encoder(history * 2, widths)
        self.mix = nn.Conv2d(2 * widths[-1], widths[-1], 1) if config.fusion == "concat" else None
        self.decoder = Decoder(widths)
        self.head = nn.Conv2d(widths[0], config.channels, 1)
        self.apply(_initialise)

    def forward(self, appearance_BCHW: Tensor, motion_BCHW: Tensor) -> Output:
        """Predict the last frame of cubes.

        Args:
            appearance_BCHW: (B, (frames - 1) * channels, H, W) in [0, 1], frame-major.
            motion_BCHW: (B, (frames - 1) * 2, H, W), flow-major, in pixels of the flow network's input;
                ignored by fusion "none".
        """
        *skips, appearance = self.appearance_encoder(appearance_BCHW)
        motion = None if self.motion_encoder is None else self.motion_encoder(motion_BCHW)
        decoded = self.decoder(self.fuse(appearance, motion), skips)
        with torch.autocast(decoded.device.type, enabled=False):  # bf16 would round the picture to 1/256
            prediction = torch.sigmoid(self.head(decoded.to(self.head.weight.dtype)))
        return Output(prediction, appearance, motion)

    def fuse(self, appearance: Tensor, motion: Tensor | None) -> Tensor:
        """What the decoder starts from: the two features joined (paper section 3.2; ablations of Table 2)."""
        if motion is None or self.fusion == "appearance":
            return appearance
        if self.mix is not None:
            return self.mix(torch.cat([appearance, motion], 1))  # type: ignore[no-any-return]
        if self.fusion == "add":
            return appearance + motion
        return torch.sigmoid(appearance) * motion + appearance


class AppearanceEncoder(nn.Module):
    """Four levels of two convolutions, halved by max pooling between them. Gives all four outputs."""

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(double_conv(i, o) for i, o in zip([channels, *widths], widths, strict=False))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [self.levels[0](x)]
        for level in self.levels[1:]:
            outputs.append(level(nn.functional.max_pool2d(outputs[-1], 2)))
        return outputs


class Decoder(nn.Module):
    """Three times: double the size, append the encoder's skip, two convolutions."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nn.ModuleList(Doubling(wide, narrow) for wide, narrow in pairs)
        self.levels = nn.ModuleList(double_conv(wide, narrow) for wide, narrow in pairs)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for up, level, skip in zip(self.ups, self.levels, reversed(skips), strict=True):
            x = level(torch.cat([skip, up(x)], 1))
        return x


class Doubling(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` of kernel and stride 2 as a 1x1 convolution, which it equals: its patches never overlap.

    The four outputs of a pixel are then arranged as 2x2. The same parameters and values, up to four times as fast in
    bf16 on CPUs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x_BCHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None and self.bias is not None
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]  # (2 2 outputs, inputs, 1, 1)
        patches = nn.functional.conv2d(x_BCHW, weight, self.bias.repeat(4)).permute(0, 2, 3, 1)
        cubes, height, width, _ = patches.shape
        rows = patches.reshape(cubes, height, width, 2, 2, self.out_channels).transpose(2, 3)
        return rows.reshape(cubes, 2 * height, 2 * width, self.out_channels).permute(0, 3, 1, 2)


def conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """3x3 convolution, BatchNorm, ReLU."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*conv(inputs, outputs), *conv(outputs, outputs))


def motion_encoder(channels: int, widths: list[int]) -> nn.Sequential:
    """Four convolutions; all but the first halve the size."""
    first, *rest = zip([channels, *widths], widths, strict=False)
    return nn.Sequential(*conv(*first), *(layer for pair in rest for layer in conv(*pair, stride=2)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_in")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def pictures(frames_BTCHW: Tensor, channels: int) -> Tensor:
    """Stored frames as float32 in [0, 1]; one grey channel is repeated to as many as the network takes.

    Args:
        frames_BTCHW: uint8.

    Raises:
        ConfigError: the cubes are in colour and the network takes another number of channels.

    Deviation: 9.
    """
    stored = frames_BTCHW.shape[2]
    if stored not in (1, channels):
        raise ConfigError(f"model.channels is {channels}, the cubes have {stored}. Set it to {stored}.")
    frames = frames_BTCHW.float() / 255
    return frames.expand(-1, -1, channels, -1, -1) if stored == 1 else frames


def inputs(frames_BTCHW: Tensor, flows_BTCHW: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Stored cubes as the network's inputs and its target.

    Args:
        frames_BTCHW: uint8, with one channel or the model's number.
        flows_BTCHW: float16, native pixels per frame.

    Returns:
        appearance (B, (T-1) C, H, W) in [0, 1], motion (B, (T-1) 2, H, W) scaled, target (B, C, H, W) in [0, 1].

    Raises:
        ConfigError: as `pictures`.
    """
    frames = pictures(frames_BTCHW, config.channels)
    motion = flows_BTCHW.to(torch.float32, copy=True)
    for axis, factor in enumerate(config.flow_scale):
        motion[:, :, axis] *= factor
    return frames[:, :-1].flatten(1, 2), motion.flatten(1, 2), frames[:, -1]
