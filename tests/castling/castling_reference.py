"""The plain reference of Castling's attention: the equations token by token, run in float64."""

import math

import torch


def attention(module, x, threshold=None, factor=1.0):
    """The output for tokens (B, N, C); with the softmax branch where a threshold is given.

    It reads the sizes and weights of a ``CastlingAttention`` and shares no code with it.
    """
    w = {key: value.double() for key, value in module.state_dict().items()}
    heads, taps = module.num_heads, module.dconv.kernel_size[0]
    batch, tokens, channels = x.shape
    size = channels // heads
    qkv = x @ w['qkv.weight'].T + w.get('qkv.bias', 0.0)
    out = []
    for h in range(heads):
        q, k, v = (
            qkv[..., part * channels + h * size : part * channels + (h + 1) * size]
            for part in range(3)
        )  # B, N, d
        similar = torch.einsum('bnd,bmd->bnm', unit(q), unit(k)) / math.pi
        y = v / 2 + torch.einsum('bnm,bmd->bnd', similar, v)
        if threshold is not None:
            weights = (torch.einsum('bnd,bmd->bnm', q, k) / math.sqrt(size)).softmax(-1)
            weights = torch.where(weights > threshold, weights, torch.zeros_like(weights))
            y = y + factor * weights @ v
        y = unit(y)
        kernel = w['dconv.weight'][h, 0, :, 0]
        rows = []
        for n in range(tokens):
            row = torch.zeros(batch, size, dtype=x.dtype)
            for tap in range(taps):
                at = n + tap - taps // 2
                if 0 <= at < tokens:
                    row = row + kernel[tap] * v[:, at]
            rows.append(row)
        out.append(y + torch.stack(rows, 1))
    return torch.cat(out, -1) @ w['proj.weight'].T + w['proj.bias']


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)
