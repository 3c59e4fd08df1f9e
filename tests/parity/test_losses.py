"""The losses against the reference implementation, against cases worked by hand, and where they must be exactly 0."""

import numpy as np
import pytest
import torch
from torch import Tensor

from amsrc.config import LossConfig, ModelConfig
from amsrc.losses import Form, consistency, gradient, intensity, terms, total, weight_penalty
from amsrc.model import AMSRC, Output
from bench.speed import reference

FORMS: list[Form] = ["released", "paper"]


def images(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((3, 2, 5, 7)))


def features(seed: int) -> Tensor:
    """Not negative and half zeros, as a feature behind a ReLU is."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 16, 4, 4))).relu()


def without_edges(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both images black in the last row and column, where it then does not matter what lies beyond."""
    prediction, target = prediction.clone(), target.clone()
    for image in (prediction, target):
        image[..., -1, :] = 0
        image[..., -1] = 0
    return prediction, target


@pytest.mark.parametrize("form", FORMS)
def test_intensity_equals_the_reference(form: Form) -> None:
    expected = reference.intensity(images(0), images(1), form).item()
    assert intensity(images(0), images(1), form).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_equals_the_reference_inside_the_image(form: Form) -> None:
    prediction, target = without_edges(images(0), images(1))
    expected = reference.gradient(prediction, target, form).item()
    assert gradient(prediction, target, form).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_equals_the_reference_up_to_the_edge(form: Form) -> None:
    expected = reference.gradient(images(0), images(1), form).item()
    assert gradient(images(0), images(1), form).item() == pytest.approx(expected, rel=1e-12)


def test_consistency_equals_the_reference() -> None:
    expected = reference.consistency(features(0), features(1)).item()
    assert 0.3 < expected < 1
    assert consistency(features(0), features(1)).item() == pytest.approx(expected, rel=1e-12)


def test_weight_penalty_equals_the_reference_over_every_parameter() -> None:
    model = AMSRC(ModelConfig(width=2)).double()
    expected = reference.weight_penalty(model).item()
    assert weight_penalty(model).item() == pytest.approx(expected, rel=1e-12)


def test_intensity_worked_by_hand() -> None:
    prediction = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 3.0]]]])
    target = torch.zeros(2, 1, 1, 2)
    assert intensity(prediction, target, "released") == (1 + 4 + 0 + 9) / 4
    assert intensity(prediction, target, "paper") == ((1 + 4) + (0 + 9)) / 2


def test_gradient_worked_by_hand() -> None:
    """One step of 1 inside, to the right; with zeros beyond the edges the 1 also falls to the right and down."""
    prediction, target = torch.tensor([[[[0.0, 1.0]]]]), torch.zeros(1, 1, 1, 2)
    assert gradient(prediction, target, "released") == (1 + 1 + 1) / 2


@pytest.mark.parametrize(
    ("form", "expected"), [("released", (1 + 1 + 4 + 7 + 1 + 6 + 3 + 7) / 4), ("paper", 1 + 4 + 1 + 6)]
)
def test_gradients_of_both_directions_worked_by_hand(form: Form, expected: float) -> None:
    """To the right 1 (2 in the target) and 4, downwards 3 (2) and 6; released also sees falls to 0 beyond the edges."""
    prediction, target = torch.tensor([[[[0.0, 1.0], [3.0, 7.0]]]]), torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    assert gradient(prediction, target, form) == reference.gradient(prediction, target, form) == expected


def test_gradient_does_not_see_the_sign_of_a_step() -> None:
    rising, falling = torch.tensor([[[[0.0, 1.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0]]]])
    inside = torch.nn.functional.pad(rising, (0, 1, 0, 1)), torch.nn.functional.pad(falling, (0, 1, 0, 1))
    # Across: steps 1 1 0 against 1 1 1. Down into the black row: 0 1 0 against 1 0 1.
    assert gradient(*inside, "paper") == 1 + 3


@pytest.mark.parametrize("form", FORMS)
def test_a_perfect_prediction_costs_exactly_nothing(form: Form) -> None:
    assert intensity(images(0), images(0), form) == 0
    assert gradient(images(0), images(0), form) == 0


def test_consistency_of_equal_opposite_and_zero_features() -> None:
    ones = torch.ones(2, 64, 4, 4)  # norm 32: nothing is rounded
    assert consistency(ones, ones) == 0
    assert consistency(ones, 4 * ones) == 0
    assert consistency(ones, -ones) == 2
    assert consistency(ones, 0 * ones) == 1
    assert consistency(features(0), features(0)).item() == pytest.approx(0, abs=1e-12)


def test_a_zero_feature_has_a_finite_gradient() -> None:
    zero = torch.zeros(2, 8, 4, 4, requires_grad=True)
    consistency(zero, torch.ones(2, 8, 4, 4)).backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def output_of(fusion_none: bool = False) -> Output:
    motion = None if fusion_none else features(1).float()
    return Output(images(0).float(), features(0).float(), motion)


@pytest.mark.parametrize("form", FORMS)
def test_terms_are_unweighted_and_their_total_weighted(form: Form) -> None:
    model = AMSRC(ModelConfig(width=2))
    config = LossConfig(form=form, intensity=2.0, gradient=3.0, consistency=10.0, weight_penalty=0.5)
    prediction, target = without_edges(images(0), images(2))
    output = output_of()._replace(prediction=prediction.float())
    expected = {
        "intensity": reference.intensity(prediction, target, form).item(),
        "gradient": reference.gradient(prediction, target, form).item(),
        "consistency": reference.consistency(features(0), features(1)).item(),
        "weight_penalty": reference.weight_penalty(model).item(),
    }
    found = terms(output, target.float(), model, config)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
    weighted = sum(getattr(config, name) * value for name, value in expected.items())
    assert total(found, config).item() == pytest.approx(weighted, rel=1e-5)


def test_the_released_loss_has_no_weight_penalty() -> None:
    found = terms(output_of(), images(2).float(), AMSRC(ModelConfig(width=2)), LossConfig())
    assert list(found) == ["intensity", "gradient", "consistency"]


def test_without_a_motion_stream_there_is_no_consistency() -> None:
    model = AMSRC(ModelConfig(width=2, fusion="none"))
    found = terms(output_of(fusion_none=True), images(2).float(), model, LossConfig())
    assert list(found) == ["intensity", "gradient"]
    assert torch.isfinite(total(found, LossConfig()))
