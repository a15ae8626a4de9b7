"""The plain reference of Attentive Normalization: the equations, written for reading, run in float64.

It shares no code with the layers: statistics are computed from the map itself, copies are made freely.
``w`` holds parameters and buffers by official key.
"""

import torch


def attn_bn(w, x, attention, training, eps=1e-5):
    """(B, C, H, W) -> the same, and what the running statistics of the batch are: mean, var."""
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = w['running_mean'], w['running_var']
    standard = (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + eps).sqrt()

    def norm(name, t):
        if training:
            m, v = t.mean(0), t.var(0, unbiased=False)
        else:
            m, v = w[f'{name}.running_mean'], w[f'{name}.running_var']
        return (t - m) / (v + 1e-5).sqrt() * w[f'{name}.weight'] + w[f'{name}.bias']

    return mix(w, standard, weights(w, x, attention, norm))


def attn_gn(w, x, attention, groups, eps=1e-5):
    grouped = x.reshape(len(x), groups, -1)
    mean, var = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
    standard = ((grouped - mean) / (var + eps).sqrt()).reshape(x.shape)

    def norm(name, t):  # one group
        m, v = t.mean(1, keepdim=True), t.var(1, keepdim=True, unbiased=False)
        return (t - m) / (v + 1e-5).sqrt() * w[f'{name}.weight'] + w[f'{name}.bias']

    return mix(w, standard, weights(w, x, attention, norm))


def weights(w, x, attention, norm):
    """The weights (B, K)."""
    t = x.mean((2, 3)) / (x.var((2, 3), unbiased=True) + 1e-3).sqrt()

    def conv(i, t):
        name = f'attention_weights.attention.{i}'
        t = t @ w[f'{name}.weight'][:, :, 0, 0].T
        return t + w[f'{name}.bias'] if f'{name}.bias' in w else t

    first, *others = attention.split('_')
    names = [f'attention_weights.attention.{i}' for i in range(5)]
    if first == 'conv':
        t = conv(0, t)
        t = norm(names[1], t) if 'norm' in others else t
    elif 'norm' in others:
        t = norm(names[4], conv(3, norm(names[1], conv(0, t)).relu()))
    else:
        t = conv(2, conv(0, t).relu())
    if others[-1] == 'sigmoid':
        return 1 / (1 + (-t).exp())
    if others[-1] == 'softmax':
        return t.exp() / t.exp().sum(1, keepdim=True)
    return (t + 3).clamp(0, 6) / 6


def mix(w, standard, weights):
    scale = torch.einsum('bk,kc->bc', weights, w['weight_'])
    shift = torch.einsum('bk,kc->bc', weights, w['bias_'])
    return standard * scale[:, :, None, None] + shift[:, :, None, None]
