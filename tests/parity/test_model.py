"""The network against its layer table and against the reference implementation with the same weights."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amsrc.config import CubeConfig, Fusion, ModelConfig
from amsrc.errors import ConfigError
from amsrc.model import AMSRC, Doubling, inputs
from bench.speed import reference

FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
Row = tuple[int, int, int, int, bool]  # kernel, input channels, output channels, output side, BatchNorm after it


def double_conv(inputs: int, outputs: int, side: int) -> list[Row]:
    return [(3, inputs, outputs, side, True), (3, outputs, outputs, side, True)]


APPEARANCE = double_conv(12, 64, 32) + double_conv(64, 128, 16) + double_conv(128, 256, 8) + double_conv(256, 512, 4)
MOTION: list[Row] = [(3, 8, 64, 32, True), (3, 64, 128, 16, True), (3, 128, 256, 8, True), (3, 256, 512, 4, True)]
MIX: list[Row] = [(1, 1024, 512, 4, False)]
DECODER = double_conv(512, 256, 8) + double_conv(256, 128, 16) + double_conv(128, 64, 32)
UPS: list[Row] = [(2, 512, 256, 8, False), (2, 256, 128, 16, False), (2, 128, 64, 32, False)]
HEAD: list[Row] = [(1, 64, 3, 32, False)]


def table(fusion: Fusion) -> list[Row]:
    """The network at width 64 as the method's layer table gives it."""
    motion = [] if fusion == "none" else MOTION
    mix = MIX if fusion == "concat" else []
    return APPEARANCE + motion + mix + UPS + DECODER + HEAD


def parameters(rows: list[Row]) -> int:
    return sum(k * k * i * o + o + (2 * o if norm else 0) for k, i, o, _, norm in rows)


def multiply_adds(rows: list[Row]) -> int:
    """Each output value of a 2x2 transposed convolution of stride 2 meets one tap of its kernel."""
    return sum((1 if k == 2 else k * k) * i * o * side * side for k, i, o, side, _ in rows)


def test_the_layer_table_gives_the_methods_totals() -> None:
    assert parameters(table("gate")) == 9_264_067  # 9.26 M
    assert multiply_adds(table("gate")) == 641_138_688  # 641 M
    assert parameters(table("none")) == 9_264_067 - 1_555_776
    assert parameters(table("concat")) == 9_264_067 + 1024 * 512 + 512


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_network_has_the_tables_parameters_and_multiply_adds(fusion: Fusion) -> None:
    model = AMSRC(ModelConfig(fusion=fusion, width=64)).eval()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters(table(fusion))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        output = model(torch.rand(1, 12, 32, 32), torch.randn(1, 8, 32, 32))
    assert counter.get_total_flops() == 2 * multiply_adds(table(fusion))
    assert output.prediction.shape == (1, 3, 32, 32)
    assert output.appearance.shape == (1, 512, 4, 4)
    assert output.motion is None if fusion == "none" else output.motion.shape == (1, 512, 4, 4)


@pytest.mark.parametrize(("channels", "frames", "size"), [(3, 5, 32), (1, 5, 32), (3, 3, 16)])
def test_shapes_follow_the_cube(channels: int, frames: int, size: int) -> None:
    model = AMSRC(ModelConfig(width=4, channels=channels), CubeConfig(frames=frames, size=size))
    history = frames - 1
    output = model(torch.rand(2, history * channels, size, size), torch.randn(2, history * 2, size, size))
    assert output.prediction.shape == (2, channels, size, size)
    assert output.appearance.shape == output.motion.shape == (2, 32, size // 8, size // 8)


def randomised(fusion: Fusion, width: int = 8) -> AMSRC:
    """A float64 network in which no weight, bias or running statistic has a value that hides its use."""
    torch.manual_seed(3)
    model = AMSRC(ModelConfig(fusion=fusion, width=width)).double()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.3 * torch.randn_like(tensor))
    return model


def restated(model: AMSRC, fusion: str = "gate") -> reference.Network:
    """The reference network with the same weights; both register their layers in the order of the paper's figure."""
    found = model.state_dict()
    other = reference.Network(model.head.in_channels, fusion).to(model.head.weight.dtype).train(model.training)
    names = other.state_dict()
    assert [value.shape for value in names.values()] == [value.shape for value in found.values()]
    other.load_state_dict(dict(zip(names, found.values(), strict=True)))
    return other


def batch(cubes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    appearance = torch.rand(cubes, 12, 32, 32, generator=generator, dtype=torch.float64)
    return appearance, 3 * torch.randn(cubes, 8, 32, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_network_equals_its_restatement(fusion: Fusion, training: bool) -> None:
    model = randomised(fusion).train(training)
    other = restated(model, fusion)
    with torch.no_grad():
        output, expected = model(*batch()), other(*batch())
    for ours, theirs in zip(output, expected, strict=True):
        if theirs is None:
            assert ours is None and fusion == "none"
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
            assert theirs.std() > 1e-3, "a constant output compares nothing"
    for ours, theirs in zip(model.buffers(), other.buffers(), strict=True):  # BatchNorm's running statistics
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_gradients_equal_its_restatements(fusion: Fusion) -> None:
    def objective(prediction: Tensor, appearance: Tensor, motion: Tensor | None) -> Tensor:
        squares = prediction.square().sum() + appearance.square().mean()
        return squares if motion is None else squares + (appearance * motion).mean()

    model = randomised(fusion).train()
    other = restated(model, fusion)
    for network in (model, other):
        objective(*network(*batch())).backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_motion_reaches_the_prediction_through_the_fusion_alone(fusion: Fusion) -> None:
    model = randomised(fusion).eval()
    appearance, motion = batch()
    with torch.no_grad():
        moved = (model(appearance, motion).prediction - model(appearance, -motion).prediction).abs().max()
    assert (moved == 0) == (fusion in ("none", "appearance"))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_features_are_not_negative_and_the_prediction_is_a_brightness(fusion: Fusion) -> None:
    with torch.no_grad():
        prediction, *features = randomised(fusion)(*batch())
    assert prediction.min() > 0 and prediction.max() < 1
    assert all(feature.min() == 0 for feature in features if feature is not None)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_the_inputs_equal_their_restatement(channels: int) -> None:
    rng = np.random.default_rng(5)
    frames = rng.integers(0, 256, (2, 5, channels, 6, 7), dtype=np.uint8)
    flows = rng.normal(0, 4, (2, 4, 2, 6, 7)).astype(np.float16)
    config = ModelConfig(flow_scale=(1024 / 360, 768 / 240))
    ours = inputs(torch.from_numpy(frames), torch.from_numpy(flows), config)
    cubes = [reference.inputs(*cube, config.flow_scale) for cube in zip(frames, flows, strict=True)]
    for tensor, expected in zip(ours, zip(*cubes, strict=True), strict=True):
        np.testing.assert_allclose(tensor.numpy(), torch.stack(expected).numpy(), rtol=1e-6)


def test_colour_cubes_are_refused_by_a_network_of_one_channel() -> None:
    frames, flows = torch.zeros(2, 5, 3, 6, 7, dtype=torch.uint8), torch.zeros(2, 4, 2, 6, 7, dtype=torch.float16)
    with pytest.raises(ConfigError, match=r"model\.channels is 1, the cubes have 3"):
        inputs(frames, flows, ModelConfig(channels=1))


def test_convolutions_start_kaiming_normal_with_zero_bias() -> None:
    torch.manual_seed(0)
    convolutions = [m for m in AMSRC(ModelConfig(fusion="concat", width=32)).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 8 + 4 + 1 + 6 + 1
    for conv in convolutions:
        weight = conv.weight.detach()
        expected = math.sqrt(2 / (1 + 0.1**2) / weight[0].numel())
        standard_error = 1 / math.sqrt(2 * weight.numel())
        assert abs(weight.std().item() / expected - 1) < 5 * standard_error
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel())
        assert conv.bias is not None and not conv.bias.any()


def test_batch_norms_start_near_one_with_zero_bias() -> None:
    torch.manual_seed(0)
    norms = [m for m in AMSRC(ModelConfig(width=32)).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 8 + 4 + 6
    weights = torch.cat([norm.weight.detach() for norm in norms])
    assert abs(weights.mean().item() - 1) < 5 * 0.02 / math.sqrt(len(weights))
    assert abs(weights.std().item() / 0.02 - 1) < 5 / math.sqrt(2 * len(weights))
    assert not any(norm.bias.any() for norm in norms)


def test_transposed_convolutions_keep_pytorchs_default() -> None:
    torch.manual_seed(0)
    ups = [m for m in AMSRC(ModelConfig(width=32)).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(ups) == 3
    for up in ups:
        bound = 1 / math.sqrt(up.weight[0].numel())
        weight = up.weight.detach()
        assert 0.99 * bound < weight.abs().max() <= bound
        assert abs(weight.std().item() / (bound / math.sqrt(3)) - 1) < 0.05
        assert up.bias is not None and 0 < up.bias.abs().max() <= bound


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_doubling_is_the_transposed_convolution_that_it_stands_for(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = Doubling(6, 4), nn.ConvTranspose2d(6, 4, 2, stride=2)
    theirs.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, theirs):
        x = torch.rand(3, 6, 5, 7, generator=torch.Generator().manual_seed(1)).to(memory_format=layout).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        found.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    assert found[0][0].shape == (3, 4, 10, 14)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
