"""Draw what the clusters of a trained PaCa model are made of, beside the images.

    python docs/images/clusters.py CONFIG CHECKPOINT --out docs/images/clusters.png

Each row is an image of the config's validation set; beside it, one colour a cluster, the cluster of a
stage that has the largest part of every position, and two clusters by themselves: those whose weights
lie closest together, brighter where they are larger.
"""

import argparse

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope

from paca_mm.analysis.build import build
from paca_mm.checkpoint import load_whole, read_checkpoint
from paca_mm.engine.config import load_config


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='clusters.png')
    parser.add_argument('--images', type=int, default=3)
    parser.add_argument(
        '--stage', type=int, default=1, help='1 is the first (default: %(default)s)'
    )
    return parser.parse_args(argv)


def compact(weights, share):
    """The clusters of a stage, the most compact first; those with no share of the image are left out.

    Args:
        weights: (M, H, W), each cluster's over the positions, which sum to 1.
        share: (M,), the positions that each cluster has the largest part of.
    """
    height, width = weights.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    row = (weights * rows).sum((1, 2))[:, None, None]
    column = (weights * columns).sum((1, 2))[:, None, None]
    spread = (weights * ((rows - row) ** 2 + (columns - column) ** 2)).sum((1, 2))
    return [k for k in np.argsort(spread) if share[k] > 3]


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    init_default_scope(cfg.default_scope)
    model = build(cfg).eval()
    load_whole(model, read_checkpoint(args.checkpoint), args.checkpoint, strict=True)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    figure, axes = plt.subplots(args.images, 4, figsize=(7.2, 1.85 * args.images), squeeze=False)
    titles = ['image', f'stage {args.stage}: clusters', 'one of them', 'another']
    for row, plots in enumerate(axes):
        sample = dataset[row * len(dataset) // args.images]
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        inputs = model.data_preprocessor(batch)['inputs']
        with torch.no_grad():
            weights = model.backbone.cluster_assignments(inputs)[args.stage - 1][0].numpy()
        largest = weights.argmax(0)
        share = np.bincount(largest.ravel(), minlength=len(weights))
        pixels = sample['inputs'].numpy()[::-1].transpose(1, 2, 0)  # BGR to RGB
        area = (0, pixels.shape[1], pixels.shape[0], 0)
        colours = plt.get_cmap('gist_ncar')(
            np.random.RandomState(1).permutation(len(weights)) / len(weights)
        )
        plots[0].imshow(pixels)
        plots[1].imshow(colours[largest], extent=area, interpolation='nearest')
        for plot, cluster in zip(plots[2:], compact(weights, share), strict=False):
            grey = pixels.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)
            plot.imshow(grey, alpha=0.35)
            plot.imshow(weights[cluster], extent=area, cmap='inferno', alpha=0.75)
        for plot, title in zip(plots, titles, strict=True):
            plot.set_axis_off()
            if not row:
                plot.set_title(title, fontsize=11)
    figure.tight_layout(pad=0.4)
    figure.savefig(args.out, dpi=110)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
