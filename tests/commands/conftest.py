"""For the commands: a directory to stand in, an environment without secrets, and a way to run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvm.secrets import WALLET_SECRETS
from tests.commands.running import Runner

_SECRETS = ("DVM_NSEC", *WALLET_SECRETS.values(), "GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _SECRETS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dvm(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)
