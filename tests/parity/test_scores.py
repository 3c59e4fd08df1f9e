"""The scores of single cubes against the reference implementation."""

import numpy as np
import pytest
import torch

from amsrc.config import ModelConfig
from amsrc.model import AMSRC, Output
from amsrc.score import errors
from bench.speed import reference
from tests.parity.test_model import restated


def output(cubes: int = 6, seed: int = 0) -> Output:
    rng = np.random.default_rng(seed)
    prediction = torch.from_numpy(rng.random((cubes, 3, 6, 5)))
    appearance, motion = (torch.from_numpy(rng.normal(size=(cubes, 16, 2, 2))).relu() for _ in range(2))
    return Output(prediction.float(), appearance.float(), motion.float())


def target(cubes: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(9).random((cubes, 3, 6, 5))).float()


@pytest.mark.parametrize("cubes", [1, 6])
def test_scores_equal_the_reference(cubes: int) -> None:
    given = output(cubes)
    assert given.motion is not None
    s_f, s_p = errors(given, target(cubes))
    expected_f = reference.one_minus_cosine(given.appearance.double(), given.motion.double()).tolist()
    expected_p = reference.squared_error(given.prediction.double(), target(cubes).double()).tolist()
    assert s_f.dtype == s_p.dtype == torch.float32
    assert s_f.tolist() == pytest.approx(expected_f, rel=1e-5, abs=1e-6)
    assert s_p.tolist() == pytest.approx(expected_p, rel=1e-5)
    assert min(expected_f) > 0.1 and min(expected_p) > 1


def test_scores_of_the_network_equal_the_reference() -> None:
    torch.manual_seed(0)
    model = AMSRC(ModelConfig(width=4)).eval()
    generator = torch.Generator().manual_seed(1)
    appearance, motion = torch.rand(3, 12, 32, 32, generator=generator), torch.randn(3, 8, 32, 32, generator=generator)
    wanted = torch.rand(3, 3, 32, 32, generator=generator)
    with torch.no_grad():
        s_f, s_p = errors(model(appearance, motion), wanted)
        prediction, *features = restated(model.double())(appearance.double(), motion.double())
    assert s_f.tolist() == pytest.approx(reference.one_minus_cosine(*features).tolist(), rel=1e-4, abs=1e-6)
    assert s_p.tolist() == pytest.approx(reference.squared_error(prediction, wanted).tolist(), rel=1e-4)


def test_a_perfect_cube_scores_exactly_zero() -> None:
    ones = torch.ones(2, 64, 4, 4)  # norm 32: nothing is rounded
    s_f, s_p = errors(Output(target(2), ones, 2 * ones), target(2))
    assert s_f.tolist() == s_p.tolist() == [0, 0]


def test_a_dead_feature_agrees_with_nothing() -> None:
    given = output(2)
    s_f, _ = errors(given._replace(appearance=torch.zeros_like(given.appearance)), target(2))
    assert s_f.tolist() == [1, 1]


def test_without_a_motion_stream_s_f_is_unknown() -> None:
    s_f, s_p = errors(output()._replace(motion=None), target())
    assert s_f.shape == s_p.shape and s_f.isnan().all() and s_p.isfinite().all()


def test_scores_of_half_precision_outputs_are_summed_in_float32() -> None:
    given = output()
    assert given.motion is not None
    half = Output(given.prediction.bfloat16(), given.appearance.bfloat16(), given.motion.bfloat16())
    assert half.motion is not None
    upcast = Output(half.prediction.float(), half.appearance.float(), half.motion.float())
    for ours, expected in zip(errors(half, target()), errors(upcast, target()), strict=True):
        assert ours.dtype == torch.float32
        assert ours.tolist() == expected.tolist()


def test_a_cube_scores_the_same_alone_as_in_a_batch() -> None:
    whole = output()
    assert whole.motion is not None
    s_f, s_p = errors(whole, target())
    alone = Output(whole.prediction[3:4], whole.appearance[3:4], whole.motion[3:4])
    one_f, one_p = errors(alone, target()[3:4])
    assert one_f.item() == pytest.approx(s_f[3].item(), rel=1e-6)
    assert one_p.item() == pytest.approx(s_p[3].item(), rel=1e-6)
