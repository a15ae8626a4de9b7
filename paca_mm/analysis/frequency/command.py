"""The work behind ``paca-mm frequency``: measure, print, plot, search."""

import argparse
from pathlib import Path
from typing import Any

from paca_mm.engine.config import load_config
from paca_mm.files import make_folder
from paca_mm.paths import command_line

from .images import load_images
from .plot import plot
from .report import as_data, measure, search_data, search_table, store, tables
from .search import DEPTHS, WIDTHS, Budget, candidates, family_with_arch, rank, write_config
from .stages import prepared


def analyze(args: argparse.Namespace) -> None:
    """Run the command, once its line is parsed."""
    cfg = load_config(args.config, args.cfg_options, args.shapes)
    name = Path(args.config).stem
    out = Path(args.out or Path('work_dirs', 'frequency', name))
    make_folder(out, '--out')
    every = prepared(cfg)
    if args.search:
        family_with_arch(every)
    images = load_images(every, args.images, args.split, args.num_images, args.crop)
    sizes = ', '.join(f'{height} x {width}' for height, width in images.sizes[:4])
    print(f'{len(images.pixels)} of {images.found} images of {images.source}: {sizes} pixels')
    wanted = _candidates(args, every, images.size) if args.search else None

    report = measure(every, images, range(args.seeds), args.checkpoint, args.window)
    print(f'\n{tables(report)}')
    stages = report.untrained
    if any(s.curve is None or len(s.curve.octaves) < 2 for s in stages):
        print(
            '\n-: a stage of less than 3 x 3 positions has no curve. Larger images give it one: '
            '--images FOLDER.'
        )
    if len(stages) == 1:
        place = 'model.backbone' + '.module' * ('module' in cfg.model.backbone)
        print(
            '\nthis backbone returns one stage; the others, where it takes out_indices: '
            f'--cfg-options {place}.out_indices=0,1,2,3'
        )
    found = None
    if wanted is not None:
        found = _search(args, cfg, every, images, report, wanted, out / f'{name}_nearest.py')
    store(as_data(report, args.config, args.checkpoint, found), out / 'frequency.json')
    title = f'{name}: {report.dataset.rows} images of {images.source}'
    plot(report, title, out / 'frequency.png')
    print(f'\nplot and numbers: {out / "frequency.png"}, {out / "frequency.json"}')
    if not args.checkpoint:
        print('to see the trained stages beside them, name a checkpoint behind the config')
    print('the definitions are our own, only inspired by a paper: docs/frequency.md')


def _candidates(args: argparse.Namespace, every: Any, size: Any) -> Any:
    """The budget and the sizes that keep to it, before anything slow begins."""
    if args.max_params is not None:
        budget = Budget('params', args.max_params, args.at_least)
    else:
        budget = Budget('macs', args.max_macs, args.at_least)
    sizes = candidates(every, budget, size, args.depths or DEPTHS, args.widths or WIDTHS)
    print(f'{len(sizes)} sizes of the backbone cost {budget} at {size[0]} x {size[1]}')
    return budget, sizes


def _search(
    args: argparse.Namespace,
    cfg: Any,
    every: Any,
    images: Any,
    report: Any,
    wanted: Any,
    file: Path,
) -> dict[str, Any]:
    """Rank the sizes, write the config of the nearest; returns plain data for the JSON file."""
    budget, sizes = wanted
    target = args.target or ('checkpoint' if args.checkpoint else 'images')
    goal = report.trained if target == 'checkpoint' else report.dataset
    print(f'\nhow far the untrained stages of each are from the {target}:')
    ranked = []
    for r in rank(every, sizes, images, report.seeds, goal, args.window):
        ranked.append(r)
        depth, width = r.candidate.depth, r.candidate.width
        print(
            f'[{len(ranked)}/{len(sizes)}] depth x {depth:g}, width x {width:g}: '
            f'{r.distance.mean:.2f} dB',
            flush=True,
        )
    ranked.sort(key=lambda r: r.distance.mean)
    best = ranked[0]
    print(f'\n{search_table(ranked, budget)}')
    close = sum(r.distance.low <= best.distance.high for r in ranked[1:])
    if close:
        print(
            f'{close} of the others are, for some seed, as near as the nearest is for another: the '
            'order among them may be chance; more --seeds tell.'
        )
    base = Path(cfg.filename)
    why = (
        f'{base.name} with depth x {best.candidate.depth:g} and width x {best.candidate.width:g}: of '
        f'{len(ranked)} sizes of {budget},\nthe one whose untrained stages are nearest to the '
        f'{target} ({best.distance.mean:.2f} dB). See docs/frequency.md.'
    )
    write_config(file, base, cfg, best.candidate, why)
    words = [str(file), *(['--shapes'] if args.shapes else [])]
    if args.typed_options:
        words += ['--cfg-options', *args.typed_options]
    print(f'the nearest size as a config: {file}\n  to train it: {command_line("train", *words)}')
    return search_data(ranked, budget, target, str(file))
