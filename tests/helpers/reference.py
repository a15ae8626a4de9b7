"""The plain reference: the paper's equations, written for reading, run in float64.

It reads a PaCaViT's configuration and state dict and shares no code with it: images are
(B, C, H, W), tokens (B, N, C), copies are made freely and attention weights are explicit.
"""

import torch
import torch.nn.functional as F


def features(model, image):
    """The normalised outputs of all stages, for any ``PaCaViT`` in eval mode."""
    w = {key: value.double() for key, value in model.state_dict().items()}
    x = image.double()
    x = conv(w, 'patch_embed.proj.0', x, stride=2, padding=1)
    x = conv(w, 'patch_embed.proj.1', x, stride=2, padding=1)
    x = norm_channels(w, 'patch_embed.norm', x)
    if model.teacher is not None:
        teacher_maps, given = teacher(w, x, model)
    outs = []
    for i, depth in enumerate(model.depths, start=1):
        if i > 1:
            x = conv(w, f'transition{i - 1}.proj', x, stride=2, padding=1)
            x = norm_channels(w, f'transition{i - 1}.norm', x)
        z = given[i - 1] if model.teacher is not None else None
        heads = model.get_submodule(f'stage{i}')[0].attn.num_heads
        for j in range(depth):
            x, z = block(w, f'stage{i}.{j}', x, z, heads, model.num_clusters[i - 1])
        if model.teacher is not None:
            x = x + teacher_maps[i - 1]
        x = norm_channels(w, f'norm{i}', x)
        outs.append(x)
    return outs


def block(w, name, x, z, num_heads, num_clusters):
    _batch, channels, height, width = x.shape
    tokens = norm_channels(w, f'{name}.norm1', x).flatten(2).transpose(1, 2)  # B, N, C
    if num_clusters == 0:
        clusters = tokens
    else:
        if f'{name}.attn.clustering.to_clusters.weight' in w:
            z = scores(w, f'{name}.attn.clustering', tokens, height, width).softmax(-1)
        clusters = torch.einsum('bmn,bnc->bmc', z, tokens)
        clusters = layer_norm(w, f'{name}.attn.cluster_norm', clusters)
    q = linear(w, f'{name}.attn.q', tokens)
    k = linear(w, f'{name}.attn.k', clusters)
    v = linear(w, f'{name}.attn.v', clusters)
    size = channels // num_heads
    heads = []
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        attention = torch.einsum('bnd,bmd->bnm', q[..., part], k[..., part]) / size**0.5
        heads.append(attention.softmax(-1) @ v[..., part])
    out = linear(w, f'{name}.attn.proj', torch.cat(heads, -1))
    x = x + out.transpose(1, 2).reshape(x.shape)

    h = norm_channels(w, f'{name}.norm2', x)
    h = pointwise(w, f'{name}.mlp.fc1', h)
    h = h + conv(w, f'{name}.mlp.dwconv', h, padding=1, groups=h.shape[1])
    h = pointwise(w, f'{name}.mlp.fc2', F.gelu(h))
    return x + h, z


def scores(w, name, tokens, height, width):
    """(B, M, N): how well each patch fits each cluster, before the softmax over the patches."""
    if f'{name}.dwconv.weight' in w:
        x = tokens.transpose(1, 2).unflatten(2, (height, width))
        x = F.gelu(conv(w, f'{name}.dwconv', x, padding=3, groups=x.shape[1]))
        x = F.gelu(conv(w, f'{name}.pwconv', x))
        return conv(w, f'{name}.to_clusters', x).flatten(2)
    if f'{name}.fc.weight' in w:
        tokens = F.gelu(linear(w, f'{name}.fc', tokens))
    return linear(w, f'{name}.to_clusters', tokens).transpose(1, 2)


def teacher(w, x, model):
    """The bottom-up maps and the assignments (B, M, N) of the clustering teacher."""
    num_stages = len(model.embed_dims)
    maps, given = [], [None] * num_stages
    blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
    for i in range(1, num_stages + 1):
        if i > 1:
            kernel = blur.repeat(x.shape[1], 1, 1, 1)
            x = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
            x = F.gelu(conv(w, f'teacher.transition{i - 1}.conv', x, stride=2, padding=1))
            x = batch_norm(w, f'teacher.transition{i - 1}.norm', x)
        j = 0
        while f'teacher.stage{i}.{j}.dwconv.weight' in w:
            x = mixer(w, f'teacher.stage{i}.{j}', x)
            j += 1
        maps.append(x)
    for i in range(num_stages, 0, -1):
        if not any(model.num_clusters[:i]):
            break  # nobody clusters from here down
        if i < num_stages:
            x = F.interpolate(x, size=maps[i - 1].shape[2:], mode='bilinear', align_corners=False)
            x = batch_norm(
                w, f'teacher.lateral{i}.norm', F.gelu(conv(w, f'teacher.lateral{i}.conv', x))
            )
            x = mixer(w, f'teacher.fpn{i}', x + maps[i - 1])
        if model.num_clusters[i - 1]:
            given[i - 1] = conv(w, f'teacher.to_clusters{i}', x).flatten(2).softmax(-1)
    return maps, given


def mixer(w, name, x):
    y = F.gelu(conv(w, f'{name}.dwconv', x, padding=3, groups=x.shape[1]))
    x = x + batch_norm(w, f'{name}.norm1', y)
    return batch_norm(w, f'{name}.norm2', F.gelu(conv(w, f'{name}.pwconv', x)))


def conv(w, name, x, **kwargs):
    return F.conv2d(x, w[f'{name}.weight'], w.get(f'{name}.bias'), **kwargs)


def linear(w, name, tokens):
    return F.linear(tokens, w[f'{name}.weight'], w.get(f'{name}.bias'))


def pointwise(w, name, x):
    """A linear layer at every position of an image."""
    return linear(w, name, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def layer_norm(w, name, tokens):
    mean = tokens.mean(-1, keepdim=True)
    variance = tokens.var(-1, keepdim=True, unbiased=False)
    return (tokens - mean) / (variance + 1e-6).sqrt() * w[f'{name}.weight'] + w[f'{name}.bias']


def norm_channels(w, name, x):
    return layer_norm(w, name, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def batch_norm(w, name, x):
    def stat(key):
        return w[f'{name}.{key}'].view(1, -1, 1, 1)

    scaled = (x - stat('running_mean')) / (stat('running_var') + 1e-5).sqrt()
    return scaled * stat('weight') + stat('bias')
