"""Checkpoints: read without running them, renamed by one table, loaded with a report."""

from .load import LoadReport, load_pretrained, load_whole
from .read import read_checkpoint, read_state_dict
from .rename import (
    classifier_to_official,
    classifier_to_ours,
    rename_to_official,
    rename_to_ours,
)

__all__ = [
    'LoadReport',
    'classifier_to_official',
    'classifier_to_ours',
    'load_pretrained',
    'load_whole',
    'read_checkpoint',
    'read_state_dict',
    'rename_to_official',
    'rename_to_ours',
]
