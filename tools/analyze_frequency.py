"""Show the frequencies of a dataset and of a network's stages, and search sizes by them.

Inspired by a paper of which only the abstract is known; docs/frequency.md says what is measured.
"""

import argparse
import shlex
from pathlib import Path

from paca_mm.cli import command
from paca_mm.engine.config import load_config
from paca_mm.engine.launch import Options
from paca_mm.errors import UserError


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config file, such as configs/cls/paca_shapes.py')
    parser.add_argument('checkpoint', nargs='?', help='what was trained with it, if anything')
    parser.add_argument(
        '--images', metavar='FOLDER', help="a folder, an image or a quoted glob, not the config's"
    )
    parser.add_argument(
        '--split', choices=['val', 'train'], default='val', help='of the dataset (default: val)'
    )
    parser.add_argument(
        '--shapes', action='store_true', help='the embedded dataset (made on first use)'
    )
    parser.add_argument(
        '--num-images', type=int, default=64, metavar='N', help='how many (default: %(default)s)'
    )
    parser.add_argument(
        '--crop',
        type=int,
        default=224,
        metavar='N',
        help='larger images are cut to their centre (default: %(default)s pixels a side)',
    )
    parser.add_argument(
        '--seeds', type=int, default=3, metavar='N', help='untrained networks (default: 3)'
    )
    parser.add_argument(
        '--window', choices=['hann', 'none'], default='hann', help='default: %(default)s'
    )
    parser.add_argument('--out', metavar='DIR', help='default: work_dirs/frequency/NAME')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE')
    search = parser.add_argument_group('search', 'depths and widths nearest to a target')
    search.add_argument('--search', action='store_true', help='needs one of the two budgets')
    budget = search.add_mutually_exclusive_group()
    budget.add_argument('--max-params', type=float, metavar='M', help="backbone's, millions")
    budget.add_argument('--max-macs', type=float, metavar='G', help="backbone's, billions")
    search.add_argument(
        '--at-least',
        type=float,
        default=0.0,
        metavar='SHARE',
        help='of the budget that a candidate uses, 0 to 1 (default: 0)',
    )
    search.add_argument(
        '--target',
        choices=['checkpoint', 'images'],
        help='what is to be near (default: the checkpoint if there is one)',
    )
    search.add_argument('--depths', type=float, nargs='+', metavar='X', help='multipliers')
    search.add_argument('--widths', type=float, nargs='+', metavar='X', help='multipliers')
    args = parser.parse_args(argv)
    for name in ('num_images', 'seeds'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name.replace("_", "-")} must be 1 at least.')
    if args.crop < 32:
        raise UserError('--crop must be 32 at least.')
    given = args.max_params is not None or args.max_macs is not None
    if args.search != given:
        raise UserError(
            'a search takes a budget: --search with --max-params (millions) or --max-macs (billions).'
        )
    if args.target == 'checkpoint' and not args.checkpoint:
        raise UserError('--target checkpoint: name the checkpoint behind the config.')
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, args.shapes)

    from paca_mm.analysis.frequency.images import load_images
    from paca_mm.analysis.frequency.plot import plot
    from paca_mm.analysis.frequency.report import as_data, measure, store, tables
    from paca_mm.analysis.frequency.search import family_with_arch
    from paca_mm.analysis.frequency.stages import prepared

    name = Path(args.config).stem
    out = Path(args.out or Path('work_dirs', 'frequency', name))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f'the folder {out} cannot be made ({e.strerror}): --out another.') from e
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


def _candidates(args, every, size):
    """The budget and the sizes that keep to it, before anything slow begins."""
    from paca_mm.analysis.frequency.search import DEPTHS, WIDTHS, Budget, candidates

    if args.max_params is not None:
        budget = Budget('params', args.max_params, args.at_least)
    else:
        budget = Budget('macs', args.max_macs, args.at_least)
    sizes = candidates(every, budget, size, args.depths or DEPTHS, args.widths or WIDTHS)
    print(f'{len(sizes)} sizes of the backbone cost {budget} at {size[0]} x {size[1]}')
    return budget, sizes


def _search(args, cfg, every, images, report, wanted, file):
    """Rank the sizes, write the config of the nearest; returns plain data for the JSON file."""
    from paca_mm.analysis.frequency.report import search_data, search_table
    from paca_mm.analysis.frequency.search import rank, write_config

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
    words = ['python', 'tools/train.py', str(file), *(['--shapes'] if args.shapes else [])]
    if args.cfg_options:
        words += ['--cfg-options', *args.typed_options]
    print(f'the nearest size as a config: {file}\n  to train it: {shlex.join(words)}')
    return search_data(ranked, budget, target, str(file))


if __name__ == '__main__':
    main()
