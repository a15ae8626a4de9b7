"""Castling's attention for deployment: without a softmax branch that adds nothing any more."""

import torch.nn as nn

from .attention import castling_attentions


def deployed(model: nn.Module, form: str) -> None:
    """Remove every softmax branch that is silent, in place.

    Args:
        model: In eval mode; it returns what it returned before.
        form: Is the same for every form.
    """
    for attention in castling_attentions(model):
        if attention.branch_is_silent():
            attention.remove_softmax_branch()


def untrained(model: nn.Module) -> None:
    """Remove every softmax branch of a model without trained weights, in place: the network at the end
    of a training has none.
    """
    for attention in castling_attentions(model):
        attention.remove_softmax_branch()


def notes(model: nn.Module) -> list[str]:
    """What is to be known of a model that is deployed."""
    count = sum(attention.softmax_branch for attention in castling_attentions(model))
    if not count:
        return []
    return [
        f'{count} softmax branches still add something, so they are in the file, and its cost grows '
        'with the square of the tokens: let paca_mm.CastlingHook fade them out before the export'
    ]
