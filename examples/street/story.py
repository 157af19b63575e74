"""From nothing to pictures of one's own street: data, training, a picture, scores, and a folder to hand on.

Shows the commands in the order one types them, each started as it is typed. All of it with the tiny base model, which
needs no GPU; with the default steps it takes some ten minutes on two cores.

    python examples/street/story.py street
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path


def commands(folder: Path, steps: int) -> list[list[str]]:
    """What is typed, in order; the run is the newest one called street."""
    data, run = folder / "data", folder / "runs" / "street" / "latest"
    short = [f"trainer.max_steps={steps}", "callbacks.samples=null", "callbacks.validation=null"]
    maps, pictures = data / "panoptic" / "test", folder / "pictures"
    return [
        ["scenes", str(data), "--train", "64", "--val", "8", "--test", "8"],
        ["check", str(data)],
        ["train", "experiment=demo", "name=street", f"data.root={data}", f"runs={folder / 'runs'}", *short],
        ["sample", str(run), "--panoptic", str(maps / "scene_000000.png"), "--out", str(pictures), "--steps", "10"],
        ["export", str(run), str(folder / "model")],
        ["push", str(folder / "model"), "me/street", "--dry-run"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for everything")
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    for words in commands(given.folder, given.steps):
        print(f"$ mamoe {shlex.join(words)}", flush=True)
        subprocess.run([sys.executable, "-m", "mamoe", *words], check=True)


if __name__ == "__main__":
    main()
