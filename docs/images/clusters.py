"""Draw what the clusters of a trained PaCa model are made of, beside the images.

    python docs/images/clusters.py CONFIG CHECKPOINT --out docs/images/clusters.png

Each row is an image of the config's validation set, and three clusters of a stage: those whose weights
lie closest together and overlap least, brighter where they are larger.
"""

import argparse

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.registry import DATASETS

from paca_mm.analysis.cluster_stats.collect import trained_model
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


def compact(weights, count):
    """The clusters whose weights lie closest together, and that overlap little.

    Args:
        weights: (M, H, W), each cluster's over the positions, which sum to 1.
        count: How many.
    """
    height, width = weights.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    row, column = (weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))
    far = (rows - row[:, None, None]) ** 2 + (columns - column[:, None, None]) ** 2
    spread = (weights * far).sum((1, 2))
    flat = weights.reshape(len(weights), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    chosen = [int(spread.argmin())]
    while len(chosen) < count:
        overlap = (flat @ flat[chosen].T).max(1)
        chosen.append(int((spread / spread.mean() + 2 * overlap).argmin()))
    return chosen


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    model = trained_model(cfg, args.checkpoint)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    figure, axes = plt.subplots(args.images, 4, figsize=(7.2, 1.85 * args.images), squeeze=False)
    titles = ['image', f'a cluster, stage {args.stage}', 'another', 'another']
    for row, plots in enumerate(axes):
        sample = dataset[row * len(dataset) // args.images]
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        inputs = model.data_preprocessor(batch)['inputs']
        with torch.no_grad():
            weights = model.backbone.cluster_assignments(inputs)[args.stage - 1][0].cpu().numpy()
        pixels = sample['inputs'].numpy()[::-1].transpose(1, 2, 0)  # BGR to RGB
        area = (0, pixels.shape[1], pixels.shape[0], 0)
        plots[0].imshow(pixels)
        for plot, cluster in zip(plots[1:], compact(weights, 3), strict=True):
            plot.imshow(pixels.mean(2), cmap='gray', vmin=0, vmax=255, alpha=0.5)
            part = weights[cluster] / weights[cluster].max()
            plot.imshow(
                part, extent=area, cmap='inferno', alpha=0.35 + 0.6 * part, interpolation='bilinear'
            )
        for plot, title in zip(plots, titles, strict=True):
            plot.set_axis_off()
            if not row:
                plot.set_title(title, fontsize=11)
    figure.tight_layout(pad=0.4)
    figure.savefig(args.out, dpi=110)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
