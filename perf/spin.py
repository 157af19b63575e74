"""How long OpenMP's threads should spin while they wait: alone on the machine, and beside another program.

    python perf/spin.py [--quick] [--rounds 3]

A step is forward and backward of the tiny UNet with as many threads as there are processors, fp32, batch 4. Each row
is a setting of the environment, each in a process of its own, in turns; a ratio is the median over the rounds of the
steps per second by those of GNU's default (spin some 100,000 times) alone. The other program keeps one processor
busy with a loop of Python. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"spin {count}": {"GOMP_SPINCOUNT": str(count)} for count in (1_000, 10_000, 100_000)},
}
_STEPS = """
import time, sys, torch
from mamoe.bases.tiny import new_unet
torch.manual_seed(0)
unet = new_unet(4)
x, t = torch.randn(4, 4, 16, 32), torch.tensor([1, 200, 500, 900])
text = torch.randn(4, 40, unet.config["cross_attention_dim"])
def step():
    unet(x, t, encoder_hidden_states=text).sample.square().mean().backward()
for _ in range(1):
    step()
start = time.perf_counter()
for _ in range(int(sys.argv[1])):
    step()
print(int(sys.argv[1]) / (time.perf_counter() - start))
"""
_OTHER = "while True: sum(range(10_000))"


def steps_per_second(setting: dict[str, str], steps: int, beside: bool) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | setting
    other = subprocess.Popen([sys.executable, "-c", _OTHER]) if beside else None
    try:
        done = subprocess.run(
            [sys.executable, "-c", _STEPS, str(steps)], env=environment, check=True, capture_output=True, text=True
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two settings, few steps")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = ["default", "passive"] if options.quick else list(SETTINGS)
    rounds, steps = (1, 2) if options.quick else (options.rounds, 8)
    measured: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds):
        for beside in (False, True):
            for name in names:
                speed = steps_per_second(SETTINGS[name], steps, beside)
                print(f"{name:>12}{' beside another' if beside else ' alone'}: {speed:.2f} steps/s", flush=True)
                measured.setdefault((name, beside), []).append(speed)
    yardstick = statistics.median(measured["default", False])
    print(f"{'setting':>12}{'alone':>8}{'beside another':>16}   (1 is {yardstick:.2f} steps/s)")
    result = {}
    for name in names:
        alone, beside = (statistics.median(measured[name, kind]) / yardstick for kind in (False, True))
        print(f"{name:>12}{alone:8.2f}{beside:16.2f}")
        result[name] = {"alone": round(alone, 3), "beside": round(beside, 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
