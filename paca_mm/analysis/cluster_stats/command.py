"""The work behind ``paca-mm cluster-stats``: measure, print, plot."""

import argparse
import json
from pathlib import Path

from paca_mm.analysis.cluster_maps import clustering_backbone
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.files import make_folder, replacing

from .collect import load_samples, measured, trained_model, untrained_model
from .report import Report, as_data, draw, tables


def analyze(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    if not cfg.get('model'):
        raise UserError(f'{args.config} has no model, so there are no clusters to look at.')
    name = Path(args.config).stem
    out = Path(args.out or Path('work_dirs', 'cluster_stats', name))
    backbone = clustering_backbone(untrained_model(cfg, args.seeds[0]))
    if not any(-depth <= args.block < depth for depth in backbone.depths):
        raise UserError(
            f'no stage has a block {args.block}: they have {backbone.depths}.\n  to fix it: --block -1, '
            'which is the last of each stage.'
        )
    after = trained_model(cfg, args.checkpoint) if args.checkpoint else None
    samples = load_samples(cfg, args.split, args.num_images)
    make_folder(out, '--out')
    print(f'{len(samples.chosen)} of {samples.found} images of {samples.source}', flush=True)
    before = []
    for seed in args.seeds:
        before.append(measured(untrained_model(cfg, seed), samples, args.block))
        print(f'untrained, seed {seed}: done', flush=True)
    trained = measured(after, samples, args.block) if after is not None else None
    report = Report(samples, tuple(args.seeds), before, trained)
    print(f'\n{tables(report)}')
    data = as_data(report, args.config, args.checkpoint, args.block)
    with replacing(out / 'cluster_stats.json', '--out') as part:
        part.write_text(json.dumps(data, indent=1, allow_nan=False) + '\n')
    title = f'{name}: {len(samples.chosen)} images of {samples.source}'
    draw(report, title, out / 'cluster_stats.png')
    print(f'\nplot and numbers: {out / "cluster_stats.png"}, {out / "cluster_stats.json"}')
    if not args.checkpoint:
        print('to see the trained clusters beside them, name a checkpoint behind the config')
    print('what the figures mean: docs/cluster-statistics.md')
