"""What `pip install mamoe` brings: the whole package, within its weight, and commands that run from it alone."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mamoe"
MOST_MIB = 60

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, check=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An empty environment with the wheel in it, which borrows the libraries the tests run with."""
    if shutil.which("uv") is None:
        pytest.skip("needs uv")
    folder = tmp_path_factory.mktemp("empty") / "env"
    subprocess.run(["uv", "venv", "--offline", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    words = ["uv", "pip", "install", "--offline", "--quiet", "--no-deps", "--python", python, wheel]
    subprocess.run(words, check=True)
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    )
    # A folder that a .pth file names comes last, and .pth files in it do not count: nothing of this checkout is seen.
    borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (Path(own.stdout.decode().strip()) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return python.parent


def run(environment: Path, *words: str | Path, at: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([environment / words[0], *words[1:]], cwd=at, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_of_the_package_is_in_it_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    here = {f"mamoe/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*") if path.is_file()}
    assert names == {name for name in here if "__pycache__" not in name}
    assert wheel.stat().st_size <= MOST_MIB * 2**20


def test_it_runs_where_nothing_else_of_this_checkout_is(environment, tmp_path):
    where = run(environment, "python", "-c", "import mamoe; print(mamoe.__file__)", at=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)
    assert "Fine-tune latent diffusion models" in run(environment, "mamoe", "--help", at=tmp_path)
    assert "camvid" in run(environment, "mamoe", "presets", "taxonomy", at=tmp_path)
    assert "mamoe" in run(environment, "mamoe", "env", at=tmp_path)


# What each command line does, one after the other: the script that `mamoe` is calls the same for one.
SEVERAL = """
import sys
from mamoe.cli import main
for line in sys.argv[1:]:
    sys.argv = ["mamoe", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, line
"""


def test_it_trains_what_it_ships_on_what_it_draws(environment, tmp_path):
    words = "experiment=demo data.root=town trainer.max_steps=1 trainer.accelerator=cpu callbacks=none"
    lines = ["scenes town --train 4 --val 1 --test 1", f"train {words}", "export runs/demo/latest model"]
    run(environment, "python", "-c", SEVERAL, *lines, at=tmp_path)
    assert "Apache 2.0" in (tmp_path / "model/README.md").read_text(encoding="utf-8")
