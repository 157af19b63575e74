"""Frechet and kernel distances and neighbour scores, against other libraries, closed forms and what must not matter."""

import numpy as np
import pytest
import torch

from mamoe.evaluation.distances import kernels, manifolds
from mamoe.evaluation.distances.frechet import (
    frechet_distance,
    frechet_infinity,
    gaussian,
    influences,
)
from mamoe.evaluation.distances.kernels import (
    cmmd,
    gaussian_kernel_less_one,
    kid,
    polynomial_kernel,
    unbiased,
)
from mamoe.evaluation.distances.manifolds import membership
from mamoe.evaluation.intervals import bootstrap_counts, deviation_of_linear
from mamoe.randomness import generator_for

DISTANCES = {
    "frechet": lambda x, y: frechet_distance(gaussian(x), gaussian(y)),
    "kid": kid,
    "cmmd": cmmd,
    "precision": lambda x, y: float(membership(x, y).precision.mean()),
    "recall": lambda x, y: float(membership(x, y).recall.mean()),
    "density": lambda x, y: float(membership(x, y).density.mean()),
    "coverage": lambda x, y: float(membership(x, y).coverage.mean()),
}


def features(n: int, d: int, seed: int, shift: float = 0.0, dtype=torch.float64) -> torch.Tensor:
    """Correlated, skewed and positive, as pooled activations are."""
    mixing = torch.randn(d, d, generator=generator_for(7, "mixing"), dtype=torch.float64) / d**0.5
    noise = torch.randn(n, d, generator=generator_for(seed, "features"), dtype=torch.float64)
    return ((noise @ mixing + shift).clamp_min(-0.5) + 0.5).to(dtype)


@pytest.mark.parametrize("n, m", [(300, 250), (40, 250), (40, 30), (64, 64)])
def test_fid_is_torch_fidelitys(n, m):
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    x, y = features(n, 64, 0), features(m, 64, 1, shift=0.2)
    stats = [fid_features_to_statistics(f) for f in (x, y)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(gaussian(x), gaussian(y)) == pytest.approx(theirs, rel=1e-6)


def test_kid_is_torch_fidelitys_of_one_subset_with_all_pictures():
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    x, y = features(150, 32, 0), features(120, 32, 1, shift=0.2)
    one_subset = kid_features_to_metric(x[:100], y[:100], kid_subsets=1, kid_subset_size=100, verbose=False)
    assert kid(x[:100], y[:100]) == pytest.approx(one_subset[KEY_METRIC_KID_MEAN], rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_precision_and_recall_are_torch_fidelitys(shift):
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    x, y = features(150, 12, 0, shift), features(120, 12, 1)
    theirs = prc_features_to_metric(x, y, verbose=False)
    ours = membership(x, y)
    assert 0.1 < float(ours.precision.mean()) < 1 and 0.1 < float(ours.recall.mean()) < 1
    assert float(ours.precision.mean()) == pytest.approx(theirs[KEY_METRIC_PRECISION], rel=1e-6)
    assert float(ours.recall.mean()) == pytest.approx(theirs[KEY_METRIC_RECALL], rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_density_and_coverage_are_prdcs(shift, capsys):
    from prdc import compute_prdc

    x, y = features(150, 12, 0, shift), features(120, 12, 1)
    theirs = compute_prdc(real_features=y.numpy(), fake_features=x.numpy(), nearest_k=5)
    ours = membership(x, y)
    assert float(ours.density.mean()) == pytest.approx(theirs["density"], rel=1e-12)
    assert float(ours.coverage.mean()) == pytest.approx(theirs["coverage"], rel=1e-12)


def test_cmmd_is_its_formula():
    """Every pair at once, with the kernel as published; embeddings as near as CLIP's are."""
    x, y = (torch.nn.functional.normalize(5 + f) for f in (features(200, 48, 0), features(170, 48, 1, 0.05)))

    def mean(a, b):
        return np.mean(np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / (2 * 10.0**2)))

    a, b = x.numpy(), y.numpy()
    direct = 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert direct < 1e-2
    assert cmmd(x, y) == pytest.approx(direct, rel=1e-6)
    assert cmmd(x.float(), y.float()) == pytest.approx(direct, rel=1e-4)  # fp32 features, float64 sums


def test_frechet_of_gaussians_with_known_distance():
    """Diagonal covariances: |difference of means|^2 + sum of squared differences of the standard deviations."""
    a, b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 0.5, 3.0]).double()
    means = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    whitened = torch.cat([torch.eye(3), -torch.eye(3)]).double() * 2.5**0.5  # mean 0, covariance 1
    made = [gaussian(mu + whitened * s) for mu, s in zip(means, (a, b), strict=True)]
    assert frechet_distance(*made) == pytest.approx(float(5 + (a - b).square().sum()), rel=1e-12)


def test_frechet_of_moved_and_scaled_features():
    """x -> 3 x + c: |2 mu + c|^2 + 4 tr S, with more pictures than channels and with fewer."""
    for n in (20, 90):
        x = features(n, 40, 0)
        own = gaussian(x)
        wanted = (2 * own.mean + 1.5).square().sum() + 4 * own.root.square().sum()
        assert frechet_distance(own, gaussian(3 * x + 1.5)) == pytest.approx(float(wanted), rel=1e-10)


def test_frechet_with_channels_that_are_always_the_same():
    """Dead channels make the covariance singular; they add their shift and nothing else."""
    x, y = features(90, 20, 0), features(80, 20, 1, 0.2)
    dead = [torch.cat([f, torch.full((len(f), 3), c, dtype=f.dtype)], 1) for f, c in ((x, 1.0), (y, 3.0))]
    plain = frechet_distance(gaussian(x), gaussian(y))
    assert frechet_distance(*map(gaussian, dead)) == pytest.approx(plain + 12, rel=1e-9)


def test_kernel_distance_of_point_masses():
    """All pictures at one point each: k(a, a) + k(b, b) - 2 k(a, b)."""
    a, b = torch.tensor([[1.0, 2.0]]).expand(5, 2), torch.tensor([[3.0, 0.0]]).expand(7, 2)
    assert kid(a, b) == pytest.approx((5 / 2 + 1) ** 3 + (9 / 2 + 1) ** 3 - 2 * (3 / 2 + 1) ** 3, rel=1e-12)
    assert cmmd(a, b) == pytest.approx(2000 * (1 - np.exp(-8 / 200)), rel=1e-10)


@pytest.mark.parametrize("n", [30, 100])
def test_identical_sets(n):
    x = features(n, 48, 0)
    spread = float(gaussian(x).root.square().sum())
    assert DISTANCES["frechet"](x, x) < 1e-10 * spread
    assert cmmd(x, x) < 1e-9
    assert kid(x, x) <= 0  # unbiased: the same pictures are nearer than two samples ever are
    same = membership(x, x)
    assert same.precision.min() == same.recall.min() == same.coverage.min() == 1


def test_large_shift_is_seen():
    x, y = features(60, 16, 0), features(60, 16, 1) + 100
    assert DISTANCES["frechet"](x, y) > 1e5 and kid(x, y) > 1e5 and cmmd(x, y) > 1500
    assert all(DISTANCES[name](x, y) == 0 for name in ("precision", "recall", "density", "coverage"))


@pytest.mark.parametrize("name", DISTANCES)
def test_order_and_pieces_do_not_matter(name, monkeypatch):
    x, y = features(70, 16, 0), features(65, 16, 1, 0.1)
    before = DISTANCES[name](x, y)
    shuffled = [f[torch.randperm(len(f), generator=generator_for(3, "order"))] for f in (x, y)]
    assert DISTANCES[name](*shuffled) == pytest.approx(before, rel=1e-9)
    for module in (kernels, manifolds):
        monkeypatch.setattr(module, "PIECE", 7 * 70)
    assert DISTANCES[name](x, y) == pytest.approx(before, rel=1e-10)


def test_no_matrix_of_all_pairs_is_held():
    """6,000 pictures: 288 MB would be one matrix of all pairs."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    x, y = features(6000, 4, 0), features(6000, 4, 1)
    with Watch():
        kid(x, y), cmmd(x, y), membership(x, y)
    assert 1e6 < max(sizes) <= 2**21


@pytest.mark.usefixtures("shapes_unchecked")
def test_extractors_are_not_mixed_and_nothing_is_scored_on_too_little():
    x, y = features(20, 8, 0), features(20, 9, 1)
    for distance in DISTANCES.values():
        with pytest.raises(ValueError, match="not from the same extractor"):
            distance(x, y)
        with pytest.raises(ValueError, match=r"at least 2|At least"):
            distance(x[:1], x[:0])
    with pytest.raises(ValueError, match="needs 30 pictures, got 20"):
        frechet_infinity(x, gaussian(x), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        gaussian(x / 0)


def test_frechet_infinity_takes_the_bias_away():
    """Two samples of one distribution: the plain distance is far from 0, the line's end is near it."""
    x, y = features(400, 16, 0), features(20000, 16, 1)
    reference = gaussian(y)
    plain = frechet_distance(gaussian(x), reference)
    value, error = frechet_infinity(x, reference, seed=0)
    assert plain > 0.05 and abs(value) < 0.25 * plain and error < 0.5 * plain


@pytest.mark.parametrize("d", [6, 80])
def test_influences_are_the_derivative(d):
    """Against a finite difference: one picture counted a little more, by weighted mean and covariance."""
    x, y = features(40, d, 0), features(50, d, 1, 0.3)
    other = gaussian(y)

    def weighted(weights: torch.Tensor) -> float:
        share = weights / weights.sum()
        mean = share @ x
        centred = (x - mean) * (share * 40 / 39).sqrt()[:, None]
        norm = torch.linalg.svdvals(centred @ other.root.T).sum()
        return float((mean - other.mean).square().sum() + centred.square().sum() + other.root.square().sum() - 2 * norm)

    step, found = 1e-5, influences(gaussian(x), other)
    for i in (0, 17):
        more, less = torch.ones(40, dtype=torch.float64), torch.ones(40, dtype=torch.float64)
        more[i], less[i] = 1 + step, 1 - step
        slope = (weighted(more) - weighted(less)) / (2 * step)
        assert float(found[i]) / 40 == pytest.approx(slope, rel=1e-4, abs=1e-5 * float(found.abs().max()) / 40)


def test_linear_bootstrap_is_as_wide_as_fresh_samples():
    """The interval's width against the spread of the distance over new samples of the same size."""
    other = gaussian(features(400, 8, 99, 0.4))
    fresh = [frechet_distance(gaussian(features(100, 8, seed)), other) for seed in range(200)]
    linear = np.mean([deviation_of_linear(influences(gaussian(features(100, 8, seed)), other)) for seed in range(5)])
    assert linear == pytest.approx(np.std(fresh), rel=0.25)


def test_weights_are_repetition():
    """Counts as weights give what the repeated pictures give, pairs of a picture with itself left out."""
    x, y = features(12, 5, 0), features(9, 5, 1)
    w, v = (bootstrap_counts(n, seed=0, replicates=3, purpose=p) for n, p in ((12, "a"), (9, "b")))
    found = unbiased(polynomial_kernel, x, y, w, v)
    for b in range(3):
        total = 0.0
        for features_, weights in ((x, w[b]), (y, v[b])):
            k = polynomial_kernel(features_, features_)
            pairs = torch.outer(weights, weights).fill_diagonal_(0)
            total += float((pairs * k).sum() / pairs.sum())
        cross = torch.outer(w[b], v[b])
        total -= 2 * float((cross * polynomial_kernel(x, y)).sum() / cross.sum())
        assert float(found[b]) == pytest.approx(total, rel=1e-10)


def test_gaussian_kernel_is_one_more():
    x, y = features(6, 5, 0), features(7, 5, 1)
    wanted = torch.exp(-torch.cdist(x, y).square() / 200)
    torch.testing.assert_close(gaussian_kernel_less_one(x, y) + 1, wanted)
