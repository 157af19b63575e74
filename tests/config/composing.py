"""Composed configurations, and what is said where one is refused."""

from pathlib import Path

import pytest

from mamoe.config.compose import SHIPPED, compose
from mamoe.config.train import validated
from mamoe.errors import ConfigError

ROOTED = ["data.root=somewhere"]  # data=folder has no root of its own


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (SHIPPED / group).glob("*.yaml"))


GROUPS = (
    "callbacks",
    "data",
    "debug",
    "experiment",
    "logger",
    "loss",
    "lr_scheduler",
    "method",
    "model",
    "optimizer",
    "trainer",
)
BESIDES = {  # what a choice cannot do without
    "optimizer=schedule_free": ["lr_scheduler=constant", "ema_decay=null"],
    "method=concat": ["data.condition=edges"],
    "method=controlnet_xs": ["data.condition=classes"],
}
CHOICES = [f"{group}={option}" for group in GROUPS for option in options(group)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def composed(*overrides: str, config_dirs=()):
    return validated(compose(overrides, config_dirs))


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
