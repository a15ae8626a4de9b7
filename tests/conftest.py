"""Shared by all tests."""

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
