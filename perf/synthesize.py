"""Does a synthetic set help a segmenter on rare classes? Real, synthetic and both, over seeds, on the demo's town.

    mamoe demo --out demo
    python perf/synthesize.py demo [--pictures 128] [--steps 8] [--seeds 3] [--size 64 128]

The yardstick is the same network trained for as many steps on the demo's 256 real pictures alone; all are tested on
real pictures of its test split. Layouts, drawings and trained networks stay in demo/, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from mamoe.evaluation.layout.use_of_sets import BOTH, DIFFERENCES, MIOU, RARE_MIOU
from mamoe.evaluation.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of denoising")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 128), help="H W the networks see, for minutes' sake")
    parser.add_argument("--rare-share", type=float, default=0.5)
    asked = parser.parse_args()
    name = f"set-{asked.pictures}-{asked.steps}"
    data, made = asked.demo / "data", asked.demo / name
    out = asked.demo / "eval" / f"{name}-{asked.size[0]}x{asked.size[1]}"
    drawn = mamoe(
        *("synthesize", asked.demo / "runs/demo/latest", "--data", data, "--out", made),
        *("--pictures", asked.pictures, "--steps", asked.steps, "--guidance-scale", 3, "--batch-size", 8),
        *("--rare-share", asked.rare_share),
    )
    compared = mamoe(
        *("evaluate", made, "--data", data, "--scores", "use", "--seeds", asked.seeds),
        *("--size", *asked.size, "--out", out),
    )
    table = Table.from_dict(json.loads((out / "metrics.json").read_text(encoding="utf-8")))
    rare = [name for name in table.columns if name.endswith("(rare)")]
    rows = {row.label: {name: row.score(name).text for name in (MIOU, RARE_MIOU, *rare)} for row in table.rows}
    print(json.dumps({"minutes": {"set": drawn, "networks": compared}, **rows}, indent=1))
    gain = next(row for row in table.rows if row.label == f"{BOTH} - {DIFFERENCES[1][1]}").score(RARE_MIOU)
    excludes = gain.interval is not None and gain.interval.low > 0
    print(f"Gain for rare classes {gain.text}: its interval {'excludes' if excludes else 'does not exclude'} zero.")


def mamoe(*words: object) -> float:
    """Run a command; returns how many minutes it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mamoe", *map(str, words)], check=True, stdout=sys.stderr)
    return round((time.perf_counter() - began) / 60, 1)


if __name__ == "__main__":
    main()
