"""Check the catalogue of published models, and that the README tables are made from it.

Every config of ``configs/*/metafile.yml`` is built and counted again. Run it as
``python tools/check_metafiles.py``; with ``--write`` it makes the tables of ``configs/*/README.md``.
"""

import argparse

from paca_mm.cli import command
from paca_mm.errors import UserError
from paca_mm.zoo import metafiles


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--write', action='store_true', help='make the README tables anew')
    parser.add_argument('--task', choices=metafiles.TASKS, help='one task only (default: all)')
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    tasks = [args.task] if args.task else metafiles.TASKS
    problems = []
    for task in tasks:
        found = [f'configs/{task}/metafile.yml: {p}' for p in metafiles.problems_of(task)]
        print(f'configs/{task}: {len(metafiles.read_metafile(task))} models, {len(found)} problems')
        problems += found
        if args.write:
            print(f'wrote {metafiles.write_readme(task)}')
        elif not metafiles.readme_is_current(task):
            problems.append(
                f'configs/{task}/README.md: its table is not what the metafile gives; '
                'python tools/check_metafiles.py --write makes it anew.'
            )
    if problems:
        raise UserError('\n  '.join([f'{len(problems)} problems:', *problems]))


if __name__ == '__main__':
    main()
