"""What distances between sets of features cost: FID, KID and CMMD beside torch-fidelity, scipy and numpy.

    python perf/scores.py [--quick] [--threads 1]

5,000 pictures; 2,048 channels for FID (from statistics) and KID, 1,024 for CMMD. --quick: 2,000 pictures, 1,024 and 512
channels, fewer subsets. Every way gets the same features in the same run. Times are processor time; memory is the
largest growth of the process while a way runs. The last line is one JSON object; "error" is relative to the first way.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil
import scipy.linalg
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from mamoe.evaluation.distances.frechet import Gaussian, frechet_distance, root_of
from mamoe.evaluation.distances.kernels import cmmd, kid, polynomial_kernel, unbiased

MIB = 2**20
POLL = 0.002  # seconds between looks at the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    value: float
    seconds: float
    mib: float


def measured(way: Callable[[], float]) -> Cost:
    process, done = psutil.Process(), threading.Event()
    start = process.memory_info().rss
    peak = [start]

    def watch() -> None:
        while not done.wait(POLL):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = time.process_time()
    value = way()
    seconds = time.process_time() - before
    done.set()
    watcher.join()
    return Cost(value=value, seconds=seconds, mib=(peak[0] - start) / MIB)


def features(n: int, d: int, seed: int, shift: float) -> torch.Tensor:
    """Correlated and positive, with a decaying spectrum, as pooled activations are."""
    draws = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -3, d)
    mixing = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(9)))[0]
    return (torch.randn(n, d, generator=draws) * scale @ mixing + 0.02 + shift).relu()


def of_sqrtm(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """The formula with scipy's matrix square root, as most code has it."""
    (mu1, sigma1), (mu2, sigma2) = one, other
    root = scipy.linalg.sqrtm(sigma1 @ sigma2)
    return float(np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * root.real))


def of_statistics(features: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> Gaussian:
    """Fitted beforehand: all ways start from means and covariances."""
    return Gaussian(n=len(features), mean=mean, root=root_of(covariance), centred=features.double() - mean)


def kid_of_subsets(x: torch.Tensor, y: torch.Tensor, *, subsets: int, size: int) -> float:
    """Ours by torch-fidelity's protocol, with its draws: every pair once, weighed for each subset."""
    draws = np.random.RandomState(2020)
    chosen_x, chosen_y = torch.zeros(subsets, len(x)).double(), torch.zeros(subsets, len(y)).double()
    for row in range(subsets):
        for chosen in (chosen_x, chosen_y):
            chosen[row, draws.choice(chosen.shape[1], size, replace=False)] = 1
    return float(unbiased(polynomial_kernel, x, y, chosen_x, chosen_y).mean())


def fid_ways(x: torch.Tensor, y: torch.Tensor) -> dict[str, Callable[[], float]]:
    stats = [(f.double().mean(0), torch.cov(f.double().T)) for f in (x, y)]
    plain = [(mu.numpy(), sigma.numpy()) for mu, sigma in stats]
    theirs = [{"mu": mu, "sigma": sigma} for mu, sigma in plain]
    return {
        "ours": lambda: frechet_distance(*(of_statistics(f, *own) for f, own in zip((x, y), stats, strict=True))),
        "torch-fidelity": lambda: fid_statistics_to_metric(*theirs, verbose=False)[KEY_METRIC_FID],
        "scipy sqrtm": lambda: of_sqrtm(*plain),
    }


def kid_ways(x: torch.Tensor, y: torch.Tensor, subsets: int, size: int) -> dict[str, Callable[[], float]]:
    protocol = {"kid_subsets": subsets, "kid_subset_size": size}
    exact = partial(kid_features_to_metric, x.double(), y.double())
    plain = partial(kid_features_to_metric, x, y)
    return {
        f"ours, {subsets} subsets of {size}": lambda: kid_of_subsets(x, y, subsets=subsets, size=size),
        "torch-fidelity, float64": lambda: exact(**protocol, verbose=False)[KEY_METRIC_KID_MEAN],
        "torch-fidelity": lambda: plain(**protocol, verbose=False)[KEY_METRIC_KID_MEAN],
        "ours, all pictures": lambda: kid(x, y),
    }


def plain_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """The published code's way: three whole kernel matrices."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
        return float(np.exp(-squared / 200).mean(dtype=a.dtype))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def cmmd_ways(x: torch.Tensor, y: torch.Tensor) -> dict[str, Callable[[], float]]:
    x, y = (torch.nn.functional.normalize(f.double()).float() for f in (x, y))
    return {
        "ours": lambda: cmmd(x, y),
        "numpy, float64": lambda: plain_cmmd(x.double().numpy(), y.double().numpy()),
        "numpy, float32": lambda: plain_cmmd(x.numpy(), y.numpy()),
    }


def compare(title: str, ways: dict[str, Callable[[], float]]) -> dict[str, dict[str, float]]:
    print(title, flush=True)
    costs = {name: measured(way) for name, way in ways.items()}
    first = next(iter(costs.values())).value
    rows = {}
    for name, cost in costs.items():
        error = abs(cost.value - first) / abs(first)
        rows[name] = {"value": cost.value, "seconds": round(cost.seconds, 2), "mib": round(cost.mib), "error": error}
        print(f"  {name:32} {cost.value:12.8g} {cost.seconds:8.2f} s {cost.mib:8.0f} MiB   apart by {error:.0e}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, d, narrow, subsets, size = (2000, 1024, 512, 10, 500) if options.quick else (5000, 2048, 1024, 100, 1000)
    x, y = features(n, d, 0, 0.0), features(n, d, 1, 0.002)
    kid(x[:10], y[:10])  # first-use costs
    result = {
        "pictures": n,
        "threads": options.threads,
        "fid": compare(f"FID from statistics of {n} pictures, {d} channels", fid_ways(x, y)),
        "kid": compare(f"KID of {n} pictures, {d} channels", kid_ways(x, y, subsets, size)),
        "cmmd": compare(
            f"CMMD of {n} pictures, {narrow} channels",
            cmmd_ways(features(n, narrow, 0, 0.0), features(n, narrow, 1, 0.002)),
        ),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
