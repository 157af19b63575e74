import pytest
import torch

from mamoe.diffusion.losses import min_snr_weight, mse_per_image
from mamoe.diffusion.parameterization import Prediction, alpha_sigma, noised, snr, target_of, to_x0


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
    ],
)
def test_min_snr_closed_forms(prediction, expected):
    weight = min_snr_weight(torch.tensor([0.0, 1.0, 5.0, 20.0]), 5.0, prediction)
    torch.testing.assert_close(weight, torch.tensor(expected))


@pytest.mark.parametrize("prediction", list(Prediction))
def test_weighted_loss_is_the_papers_x0_loss_in_every_parameterization(prediction):
    generator = torch.Generator().manual_seed(1)
    x0, eps, error = torch.randn(3, 5, 2, 3, 3, dtype=torch.float64, generator=generator)
    kept = torch.tensor([0.99, 0.8, 0.5, 0.2, 0.05], dtype=torch.float64)
    t = torch.arange(5)
    alpha, sigma = alpha_sigma(kept, t)
    output = target_of(prediction, x0, eps, alpha, sigma) + error
    guess = to_x0(prediction, output, noised(x0, eps, alpha, sigma), alpha, sigma)
    ratio = snr(kept, t)
    wanted = ratio.clamp(max=5.0) * (guess - x0).square().flatten(1).mean(1)
    got = min_snr_weight(ratio, 5.0, prediction) * error.square().flatten(1).mean(1)
    torch.testing.assert_close(got, wanted)
