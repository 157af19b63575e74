"""An exported folder goes to the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mamoe.commands.card.page import CARD
from mamoe.errors import ConfigError, MamoeError
from mamoe.machine.stopping import TRY_AGAIN
from mamoe.runs.lookup import is_run

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TOKEN = re.compile(r"hf_\w+")


class HubError(MamoeError):
    """The hub does not answer, or not now."""

    exit_code = TRY_AGAIN


def files_to_push(folder: Path, repo: str) -> list[Path]:
    """What would be uploaded, relative to the folder: all of it but hidden files.

    Raises:
        ConfigError: there is no model in the folder, something in it should not be passed on, or the repository's
            name is none.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{repo} is no name on the hub: wanted OWNER/NAME of letters, digits, '-', '_' and '.'.")
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. Make one: mamoe export RUN {folder}")
    if is_run(folder):
        raise ConfigError(f"{folder} is a run, whose optimizer and data nobody wants. First: mamoe export {folder} OUT")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    problems = [f"{path} is a pickle" for path in kept if path.suffix.lower() in _PICKLES]
    root = folder.resolve()
    problems += [f"{path} is a link that leads out of it" for path in kept if not path.resolve().is_relative_to(root)]
    if not any(path.suffix == ".safetensors" for path in kept):
        problems.append("it holds no .safetensors file")
    if not (folder / CARD).is_file():
        problems.append(f"it has no model card ({CARD}), which `mamoe export` writes")
    if problems:
        raise ConfigError(f"{folder} is not uploaded: {'; '.join(problems)}.")
    return [path.relative_to(folder) for path in kept]


def listing(folder: Path, files: Sequence[Path]) -> str:
    """The files and their sizes, a line each, and the sum."""
    sizes = [(folder / file).stat().st_size for file in files]
    rows = [(f"{size:,}", file.as_posix()) for size, file in zip(sizes, files, strict=True)]
    rows.append((f"{sum(sizes):,}", f"bytes in {len(files)} files"))
    width = max(len(size) for size, _ in rows)
    return "\n".join(f"{size:>{width}}  {name}" for size, name in rows)


def push_folder(folder: Path, repo: str, files: Sequence[Path], *, public: bool) -> str:
    """Upload the files in one commit; returns the repository's address. A new repository is private unless ``public``.

    Raises:
        ConfigError: the hub refuses: nobody is logged in, or may not write there.
        HubError: the hub cannot be reached, or fails.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise ConfigError("HF_HUB_OFFLINE is set: nothing is sent. Unset it to upload.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    unreachable: Any = (OSError, *HfHubHTTPError.__bases__)  # the others: of whichever HTTP client the hub's has
    api = HfApi()
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        patterns = [re.sub(r"([*?\[])", r"[\1]", file.as_posix()) for file in files]  # as patterns of themselves
        api.upload_folder(
            folder_path=folder, repo_id=repo, allow_patterns=patterns, commit_message="Model exported by mamoe"
        )
    except LocalTokenNotFoundError:
        raise ConfigError("Nobody is logged in to the hub. First: hf auth login, or set HF_TOKEN.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        reason = _TOKEN.sub("hf_…", str(error).strip().splitlines()[0] if str(error).strip() else "no reason given")
        if status in (401, 403):
            raise ConfigError(
                f"The hub does not let you write to {repo} ({status}): {reason} Log in with `hf auth login` or set "
                "HF_TOKEN, as somebody who may."
            ) from None
        if 400 <= status < 500 and status != 429:
            raise ConfigError(f"The hub refuses {repo} ({status}): {reason}") from None
        raise HubError(f"The hub fails ({status}): {reason} Try again; what arrived is not sent twice.") from None
    except unreachable as error:
        raise HubError(f"The hub cannot be reached: {_TOKEN.sub('hf_…', str(error))} Try again later.") from None
    return str(address)
