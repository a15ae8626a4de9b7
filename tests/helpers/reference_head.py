"""The plain reference of the segmentation head: the equations, written for reading.

It shares no code with ``PaCaHead``: every level is resized, the 1024-channel map is made, attention
weights are explicit, and norms are spelled out. ``w`` holds parameters and buffers by official key,
in any dtype; gradients flow into whatever of it requires them.
"""

import torch
import torch.nn.functional as F


def logits(w, levels, *, training, align_corners=False, groups=None):
    """Levels (B, C_i, H_i, W_i) -> logits and cluster scores, (B, L, H, W), without dropout.

    ``training`` normalises by the statistics of the batch; ``groups`` says GroupNorm, and keys that
    are absent say no norm at all.
    """

    def conv_norm_relu(name, x):
        x = conv(w, f'{name}.conv', x)
        return norm(w, f'{name}.bn' if groups is None else f'{name}.gn', x, training, groups).relu()

    def linear_norm_relu(name, tokens):
        x = tokens @ w[f'{name}.0.weight'].T + w[f'{name}.0.bias']  # B, L, D
        x = norm(w, f'{name}.2', x.transpose(1, 2), training, groups)
        return x.relu().transpose(1, 2)

    size = levels[0].shape[2:]
    x = torch.cat(
        [
            F.interpolate(
                conv_norm_relu(f'convs.{i}', level),
                size=size,
                mode='bilinear',
                align_corners=align_corners,
            )
            for i, level in enumerate(levels)
        ],
        1,
    )
    q = conv_norm_relu('q.0', x).flatten(2).transpose(1, 2)  # B, N, D
    scores = conv(w, 'clustering.1', conv_norm_relu('clustering.0', x))  # B, L, H, W
    z = scores.flatten(2).softmax(-1)
    clusters = torch.einsum('bln,bcn->blc', z, x.flatten(2))
    attention = torch.einsum('bnd,bld->bnl', q, linear_norm_relu('k', clusters)).softmax(-1)
    out = attention @ linear_norm_relu('v', clusters)
    out = conv_norm_relu('proj', out.transpose(1, 2).unflatten(2, size))
    return conv(w, 'conv_seg', out), scores


def conv(w, name, x):
    """A 1x1 convolution."""
    x = torch.einsum('oi,bihw->bohw', w[f'{name}.weight'][:, :, 0, 0], x)
    bias = w.get(f'{name}.bias')
    return x if bias is None else x + bias.view(1, -1, 1, 1)


def norm(w, name, x, training, groups):
    """BatchNorm or GroupNorm of (B, C, ...)."""
    if f'{name}.weight' not in w:
        return x
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if groups is not None:
        grouped = x.reshape(len(x), groups, -1)
        mean = grouped.mean(-1, keepdim=True)
        variance = grouped.var(-1, keepdim=True, unbiased=False)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    else:
        if training:
            others = [i for i in range(x.dim()) if i != 1]
            mean, variance = x.mean(others), x.var(others, unbiased=False)
        else:
            mean, variance = w[f'{name}.running_mean'], w[f'{name}.running_var']
        x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return x * w[f'{name}.weight'].view(shape) + w[f'{name}.bias'].view(shape)
