import numpy as np
import pytest
import torch
from denoised import denoised

from mamoe.diffusion.losses import MinSnr, inverse_frequency_weights, masked_mse, mse, mse_per_image
from mamoe.diffusion.parameterization import Prediction, alpha_sigma, noised, target_of, to_x0


def test_mse_is_per_image_and_in_float32():
    output = torch.stack([torch.full((4, 2, 2), c) for c in (0.0, 1.0, -3.0)]).bfloat16()
    loss = mse_per_image(output, torch.zeros_like(output))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [0.0, 1.0, 9.0]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (Prediction.X0, [0.0, 1.0, 5.0, 5.0]),
        (Prediction.EPSILON, [1.0, 1.0, 1.0, 0.25]),
        (Prediction.V, [0.0, 0.5, 5 / 6, 5 / 21]),
        (Prediction.FLOW, [0.0, 0.25, 5 / (1 + 5**0.5) ** 2, 5 / (1 + 20**0.5) ** 2]),
    ],
)
def test_min_snr_closed_forms(prediction, expected):
    weight = MinSnr(5.0)(torch.tensor([0.0, 1.0, 5.0, 20.0]), prediction)
    torch.testing.assert_close(weight, torch.tensor(expected))


@pytest.mark.parametrize("prediction", list(Prediction))
def test_weighted_loss_is_the_papers_x0_loss_in_every_parameterization(prediction):
    generator = torch.Generator().manual_seed(1)
    x0, eps, error = torch.randn(3, 5, 2, 3, 3, dtype=torch.float64, generator=generator)
    kept = torch.tensor([0.99, 0.8, 0.5, 0.2, 0.05], dtype=torch.float64)
    t = torch.arange(5)
    alpha, sigma = alpha_sigma(kept, t)
    if prediction is Prediction.FLOW:
        alpha = 1 - sigma
    output = target_of(prediction, x0, eps, alpha, sigma) + error
    guess = to_x0(prediction, output, noised(x0, eps, alpha, sigma), alpha, sigma)
    ratio = (alpha / sigma).square().flatten()
    wanted = ratio.clamp(max=5.0) * (guess - x0).square().flatten(1).mean(1)
    got = MinSnr(5.0)(ratio, prediction) * error.square().flatten(1).mean(1)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_a_right_answer_costs_nothing(prediction):
    right = denoised(prediction).target
    perfect = denoised(prediction, output=right, cell_weight=torch.rand(3, 6, 5))
    assert mse(perfect).tolist() == masked_mse(perfect).tolist() == [0.0] * 3
    torch.testing.assert_close(perfect.clean_estimate, perfect.clean)


def test_masked_mse_with_equal_weights_is_mse_and_zero_weights_hide_cells():
    plain = denoised()
    torch.testing.assert_close(masked_mse(denoised(cell_weight=torch.ones(3, 6, 5))), mse(plain))
    left = torch.zeros(3, 6, 5)
    left[..., :2] = 1.0
    error = (plain.output - plain.target).square()
    torch.testing.assert_close(masked_mse(denoised(cell_weight=left)), error[..., :2].flatten(1).sum(1) / (4 * 6 * 5))
    with pytest.raises(ValueError, match="class weights"):
        masked_mse(plain)


def test_masked_mse_gives_no_gradient_to_hidden_cells():
    output = denoised().output.requires_grad_()
    weight = torch.ones(3, 6, 5)
    weight[:, 2] = 0.0
    masked_mse(denoised(output=output, cell_weight=weight)).sum().backward()
    assert output.grad is not None
    assert not output.grad[:, :, 2].any() and output.grad[:, :, 3].all()


def test_inverse_frequency_weights():
    shares = np.array([0.9, 0.09, 0.01, 0.0])
    every_class = inverse_frequency_weights(shares, power=1.0, cap=1e9)
    np.testing.assert_allclose(every_class[:3] * shares[:3], 1 / 3)  # all classes weigh the same in all
    np.testing.assert_allclose(inverse_frequency_weights(shares, power=0.0, cap=10.0), 1.0)
    for power, cap in ((0.5, 100.0), (1.0, 5.0)):
        weights = inverse_frequency_weights(shares, power=power, cap=cap)
        np.testing.assert_allclose(shares @ weights, 1.0)
        assert weights[0] < weights[1] <= weights[2] == weights[3]
        assert weights.max() / weights.min() <= cap * (1 + 1e-12)
    half = inverse_frequency_weights(shares, power=0.5, cap=100.0)
    np.testing.assert_allclose(half[1] / half[0], 10**0.5)
    for bad in ({"power": 2.0, "cap": 10.0}, {"power": 0.5, "cap": 0.5}):
        with pytest.raises(ValueError, match="power must lie"):
            inverse_frequency_weights(shares, **bad)
    with pytest.raises(ValueError, match="sum to 1"):
        inverse_frequency_weights(shares / 2, power=0.5, cap=10.0)
