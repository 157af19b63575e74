"""What is here: the machine as a bug report needs it, and the settings that ship with the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mamoe.config.shipped import SHIPPED, group_names
from mamoe.errors import ConfigError, nearest

# Values of these are shown; nothing else of the environment is, for it may hold keys.
VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "NVIDIA_TF32_OVERRIDE"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "WORLD_SIZE", "SLURM_JOB_NUM_NODES"),
)
_GIB = 2**30


def env() -> None:
    """Say what a bug report needs: versions, processors, memory, accelerators, and settings of the environment.

    Example: mamoe env
    """
    import psutil
    import torch

    from mamoe.runs.folder import environment

    facts = environment()
    packages = {**facts["packages"], "torch": torch.__version__}  # which says the kind of build, too
    memory = psutil.virtual_memory()
    rows = {
        "mamoe": f"{packages.pop('mamoe')}, Python {facts['python']}",
        "system": facts["platform"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "processors": f"{facts['cpus']} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads",
        "memory": f"{memory.total / _GIB:.1f} GiB, {memory.available / _GIB:.1f} GiB of it free",
        "accelerators": "; ".join(_accelerators()) or "none that torch can use",
        "environment": ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
        or "as it is",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        typer.echo(f"{name:{width}}  {value}")


def _accelerators() -> list[str]:
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = [
        f"{gpu.name}, {gpu.total_memory / _GIB:.1f} GiB, compute {gpu.major}.{gpu.minor}, CUDA {torch.version.cuda}"
        for gpu in found
    ]
    return [*gpus, "Apple GPU (mps)"] if torch.backends.mps.is_available() else gpus


def presets(
    what: Annotated[str | None, typer.Argument(help="A group, or GROUP=NAME to read one.")] = None,
    config_dir: Annotated[list[Path] | None, typer.Option(help="Folder of your own YAML; may be repeated.")] = None,
) -> None:
    """List what can be chosen by name: data, models, methods, losses, trainers and the rest, yours among them.

    Example: mamoe presets, mamoe presets method, mamoe presets method=lora
    """
    from mamoe.config.compose import options_of, search_path  # loads Hydra

    roots = [SHIPPED, *map(Path, search_path(config_dir or []))]
    groups = {group: options_of(group, roots) for group in _groups(roots)}
    if what is None:
        width = max(map(len, groups))
        for group, names in groups.items():
            typer.echo(f"{group:{width}}  {', '.join(names)}")
        return
    group, _, name = what.partition("=")
    if group not in groups:
        raise ConfigError(_unknown(f"group {group!r}", group, "", list(groups)))
    if not name:
        width = max(map(len, groups[group]))
        for option in groups[group]:
            typer.echo(f"{group}={option:{width}}  {_about(_file(group, option, roots))}".rstrip())
        return
    if name not in groups[group]:
        raise ConfigError(_unknown(f"{group}={name}", name, f"{group}=", groups[group]))
    typer.echo(_file(group, name, roots).read_text(encoding="utf-8").rstrip())


def _unknown(what: str, name: str, before: str, known: list[str]) -> str:
    near = nearest(name, known)
    hint = f"; did you mean {before}{near}?" if near else "."
    return f"There is no {what}{hint} There are: {', '.join(known)}."


def _groups(roots: list[Path]) -> list[str]:
    own = {path.name for root in roots[1:] for path in root.iterdir() if path.is_dir() and any(path.glob("*.yaml"))}
    return sorted({*group_names(), *own, "benchmark"} - {"hydra"})


def _file(group: str, name: str, roots: list[Path]) -> Path:
    """The first of the roots that has it, which is the one that Hydra takes."""
    return next(path for root in roots if (path := root / group / f"{name}.yaml").is_file())


def _about(file: Path) -> str:
    """What the YAML says of itself: the comments it begins with, as one line."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:head])
