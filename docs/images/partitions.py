"""Draw the hard partition of images into clusters, before and after a training.

    python docs/images/partitions.py CONFIG CHECKPOINT --out docs/images/partitions.png

Each row is an image of the config's validation set, with its labels, and the cluster that weighs most at
each position: of the first stage, and of the head, whose clusters have the colours of the classes.
"""

import argparse

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
import torch

from paca_mm.analysis.cluster_maps import class_clusters, cluster_maps, partition
from paca_mm.analysis.cluster_stats.collect import load_samples, trained_model, untrained_model
from paca_mm.engine.config import load_config


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', default='partitions.png')
    parser.add_argument('--images', type=int, default=3)
    return parser.parse_args(argv)


def colours(count):
    """Neighbouring numbers far apart."""
    hues = plt.get_cmap('hsv')(np.arange(count) * 0.618 % 1)[:, :3]
    return hues * np.where(np.arange(count) % 2, 1, 0.65)[:, None]


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    samples = load_samples(cfg, most=args.images + 1)
    models = {
        'untrained': untrained_model(cfg, 0),
        'trained': trained_model(cfg, args.checkpoint),
    }
    palette = np.array(cfg.val_dataloader.dataset.metainfo.palette, np.uint8)
    size = (11, 1.95 * args.images)
    figure, axes = plt.subplots(args.images, 6, figsize=size, layout='constrained', squeeze=False)
    for row, sample in zip(axes, samples.chosen, strict=False):
        packed = sample.packed
        pixels = packed['inputs'].numpy()[::-1].transpose(1, 2, 0)  # BGR to RGB
        shown = [
            ('image', pixels),
            ('labels', palette[np.minimum(sample.labels, len(palette) - 1)]),
        ]
        for name in ('stage 1', 'head'):
            for when, model in models.items():
                batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
                x = model.data_preprocessor(batch, False)['inputs']
                with torch.no_grad():
                    found = cluster_maps(model, x, [0], [-1])[0] if name == 'stage 1' else None
                    found = found or class_clusters(model, x)
                of = palette if name == 'head' else colours(found.assignment.shape[1])
                parts = partition(found.assignment)[0].numpy()
                shown.append((f'{name}, {when}', of[parts]))
        for plot, (title, picture) in zip(row, shown, strict=True):
            plot.imshow(picture, interpolation='nearest', extent=(0, 1, 1, 0))
            plot.set_axis_off()
            if row is axes[0]:
                plot.set_title(title, fontsize=11)
    figure.savefig(args.out, dpi=90)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
