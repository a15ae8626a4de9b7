"""Shared by all tests."""

import time
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(autouse=True)
def _fresh():
    """No test sees what another left: random numbers, default scope, logger, visualizer."""
    from helpers.tool import forget_runs

    forget_runs()
    torch.manual_seed(0)
    yield
    forget_runs()  # a fixture of a module is made before this one of its first test


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    """mmengine's iteration loop waits two seconds at the end of every epoch, for workers of old."""
    from mmengine.runner import loops

    hurried = SimpleNamespace(**{**vars(time), 'sleep': lambda seconds: None})
    monkeypatch.setattr(loops, 'time', hurried)
