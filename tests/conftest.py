"""Shared by all tests."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # golden, reference, rows


@pytest.fixture(autouse=True)
def _fresh():
    """No test sees what another left: random numbers, default scope, logger, visualizer."""
    from tool import forget_runs

    forget_runs()
    torch.manual_seed(0)
