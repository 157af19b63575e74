"""What the libraries below say by themselves."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Switch off the progress bars with which libraries read and write files; downloads keep theirs."""
    import diffusers
    import huggingface_hub.utils as hub
    import transformers

    downloads_are_shown = not hub.are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # and the hub's with them
    if downloads_are_shown:
        hub.enable_progress_bars()
