"""Shared by all tests."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # golden, reference, rows


@pytest.fixture(autouse=True)
def _same_numbers():
    """Every test draws the same random numbers whichever tests run before it."""
    torch.manual_seed(0)
