"""From command-line overrides to a training: one run, or a Hydra sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mamoe.config.compose import (
    ROOT,
    SHIPPED,
    compose,
    pinned,
    readable,
    refusal,
    search_path_override,
    setting,
    with_file,
)
from mamoe.config.train import EvaluateAfter, Train, recorded, validated
from mamoe.console import progress
from mamoe.errors import ConfigError
from mamoe.machine.stopping import stopped_with
from mamoe.runs.folder import merged, read_overrides, run_of
from mamoe.runs.home import Home

RESUME = "resume="
LAUNCHERS = {"joblib": "joblib", "submitit": "submitit"}  # how a launcher's name begins -> the extra that has it


def launch(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> int:
    """Compose, validate and train; returns the exit code.

    Raises:
        MamoeError: what the user can mend.
    """
    overrides, plain, config = _composed(overrides, config_dirs)  # before anything heavy is imported

    from mamoe.assemble.training import train
    from mamoe.machine.libraries import quiet_libraries

    quiet_libraries()
    after = config.evaluate_after
    if after is not None:
        from mamoe.commands.evaluate_after import check_after

        check_after(config, after)
    kept = [override for override in overrides if not override.startswith(RESUME)]
    result, run = train(config, plain=plain, overrides=kept)
    if after is not None and result.exit_code == 0 and result.checkpoint is not None:
        _evaluate(config, after, run)
    return result.exit_code


def told(overrides: Sequence[str]) -> tuple[list[str], Path | None]:
    """The overrides to compose, and the run that is resumed: those it was last told, ``overrides`` on top of them.

    Raises:
        ConfigError: ``resume`` names no run.
    """
    given = pinned([override for override in overrides if not override.startswith(RESUME)])
    resumed = next((o.removeprefix(RESUME) for o in reversed(overrides) if o.startswith(RESUME)), "null")
    if resumed in ("null", "auto"):
        return [*given, f"{RESUME}{resumed}"], None
    if resumed[:1] in ("'", '"') and resumed[:1] == resumed[-1:]:  # as the other settings may be written
        resumed = resumed[1:-1]
    if resumed.startswith("~/"):  # which a shell leaves alone behind an =
        resumed = str(Path(resumed).expanduser())
    run = run_of(resumed)
    return [*merged(read_overrides(run), given), setting("resume", resumed)], run


def _composed(overrides: Sequence[str], config_dirs: Sequence[Path]) -> tuple[list[str], dict[str, Any], Train]:
    words, run = told(overrides)
    plain = compose(words, config_dirs, home=None if run is None else Home.of(run))
    return words, plain, (validated if run is None else recorded)(plain)


def _evaluate(config: Train, after: EvaluateAfter, run: Path) -> None:
    from mamoe.commands.evaluate_after import evaluate_after
    from mamoe.training.scale.cluster import is_first_process

    if is_first_process():
        kept = stopped_with(f"the training is done, and so far drawn pictures are kept. Go on with resume={run}.")
        with kept, progress("Evaluating") as update:
            table, folder = evaluate_after(config, after, run, update)
        print(f"{table.markdown()}\nWritten to {folder}.")


def launch_cache(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> list[str]:
    """Compose, validate and fill the caches a training would use; returns a line on each.

    Raises:
        MamoeError: what the user can mend.
    """
    _, _, config = _composed(overrides, config_dirs)  # before anything heavy is imported

    from mamoe.assemble.caches import build_caches
    from mamoe.machine.libraries import quiet_libraries

    quiet_libraries()
    return build_caches(config, progress)


def launch_sweep(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> None:
    """One training per combination of comma-separated values, by whatever launcher the configuration names."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check_launcher(overrides)
    _check_resumed(overrides)

    @hydra.main(version_base="1.3", config_path=str(SHIPPED), config_name=ROOT)
    def job(_composed) -> None:
        chosen = [str(override) for override in HydraConfig.get().overrides.task]
        code = launch(chosen, config_dirs)
        if code:
            sys.exit(code)

    # A comma separates values here, which Hydra alone can tell from one within a value.
    plain = [with_file(override) if "," in override else readable([override])[0] for override in overrides]
    sys.argv = ["mamoe train", "--multirun", *search_path_override(config_dirs), *plain]
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # else it prints errors itself, with a trace, and ends with 1 whatever they are
    )
    try:
        job()
    except (HydraException, OmegaConfBaseException) as error:
        raise refusal(error, overrides, config_dirs) from None


def _check_resumed(overrides: Sequence[str]) -> None:
    """One run cannot go on in several ways at once; a list of runs can."""
    for named in (o.removeprefix(RESUME) for o in overrides if o.startswith(RESUME)):
        if named not in ("null", "auto") and "," not in named:
            raise ConfigError(
                f"-m starts a training for each combination, and resume={named} is one run: leave out -m to go on with "
                "it, or resume=; resume=auto goes on with those of the sweep."
            )


def _check_launcher(overrides: Sequence[str]) -> None:
    for override in overrides:
        key, _, named = override.partition("=")
        extra = next((extra for prefix, extra in LAUNCHERS.items() if named.startswith(prefix)), None)
        if key == "hydra/launcher" and extra and find_spec(f"hydra_plugins.hydra_{extra}_launcher") is None:
            raise ConfigError(f"{override} needs a package that is not installed: pip install 'mamoe[{extra}]'.")
