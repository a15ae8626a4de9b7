"""What PaCa-ViT costs, in closed form: multiply-accumulates, counted from the architecture alone.

The published convention: convolutions and linear layers, the pooling of the patches into clusters
and the two products of the attention count; norms, activations and resizing do not. C channels,
N patches, M clusters (0: attention to all patches).
"""

from math import ceil

from paca_mm.models.paca.archs import resolve_arch


def backbone_macs(
    height, width, arch='small', clustering='conv', num_clusters=None, cluster_every=0
):
    """MACs of one image through a backbone, whatever its arch, clustering and size."""
    sizes = resolve_arch(arch)
    dims, depths, ratios = sizes['embed_dims'], sizes['depths'], sizes['mlp_ratios']
    teacher = sizes.get('teacher_depths')
    if num_clusters is None:
        num_clusters = (100, 100, 100, 100 if teacher else 0)
    patches = [n for _, n in _pyramid(height, width, len(dims))]

    total = (
        _halved(height, width, 1) * 9 * 3 * dims[0] // 2 + patches[0] * 9 * dims[0] // 2 * dims[0]
    )
    for i, (c, n, m) in enumerate(zip(dims, patches, num_clusters, strict=True)):
        if i:
            total += 9 * dims[i - 1] * c * n
        for j in range(depths[i]):
            anew = j == 0 if cluster_every == 0 else j % cluster_every == 0
            if m and anew and not teacher:
                total += _clustering(clustering, c, n, m, ratios[i])
            keys = m or n
            total += 2 * n * c * c + 2 * keys * c * c + 2 * n * keys * c  # q, out; k, v; attention
            total += m * n * c  # pooling
            total += 2 * ratios[i] * n * c * c + 9 * ratios[i] * c * n  # the MLP
    return total + (_teacher(dims, teacher, patches, num_clusters) if teacher else 0)


def classifier_macs(size=224, num_classes=1000, **backbone):
    """MACs of an ImageNet classifier."""
    last = resolve_arch(backbone.get('arch', 'small'))['embed_dims'][-1]
    return backbone_macs(size, size, **backbone) + last * num_classes


def _clustering(kind, c, n, m, ratio):
    return {
        'conv': 49 * c * n + c * c * n + c * m * n,
        'mlp': ratio * c * c * n + ratio * c * m * n,
        'linear': c * m * n,
    }[kind]


def _teacher(dims, depths, patches, num_clusters):
    def unit(c, n):  # depthwise 7x7, 1x1
        return 49 * c * n + c * c * n

    total = 0
    for i, (c, n, m) in enumerate(zip(dims, patches, num_clusters, strict=True)):
        total += depths[i] * unit(c, n) + c * m * n
        if i + 1 < len(dims):
            total += 9 * c * n + 9 * c * dims[i + 1] * patches[i + 1]  # blur, strided convolution
            total += c * dims[i + 1] * n + unit(c, n)  # lateral, FPN unit
    return total


def _pyramid(height, width, stages):
    return [(s, _halved(height, width, s + 2)) for s in range(stages)]


def _halved(height, width, times):
    """Patches after so many convolutions of stride 2."""
    for _ in range(times):
        height, width = ceil(height / 2), ceil(width / 2)
    return height * width
