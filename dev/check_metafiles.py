"""Check the catalogue of published models, and that the README tables are made from it.

Every config of ``configs/**/metafile.yml`` is built and counted again. Run it as
``python dev/check_metafiles.py``; with ``--write`` it makes the tables of ``configs/**/README.md`` and
``model-index.yml``.
"""

import argparse

import readme_tables

from paca_mm.analysis.recount import problems_of
from paca_mm.cli import command
from paca_mm.errors import UserError
from paca_mm.zoo.metafiles import metafiles, read_metafile


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--write', action='store_true', help='make the tables and the index again')
    parser.add_argument('--task', choices=('cls', 'det', 'seg'), help='one task only')
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    problems = []
    for name in metafiles(args.task or '*'):
        found = [f'configs/{name}/metafile.yml: {p}' for p in problems_of(name)]
        print(f'configs/{name}: {len(read_metafile(name))} models, {len(found)} problems')
        problems += found
        if args.write:
            print(f'wrote {readme_tables.write_readme(name)}')
        elif not readme_tables.readme_is_current(name):
            problems.append(
                f'configs/{name}/README.md: its table is not what the metafile gives; '
                'python dev/check_metafiles.py --write makes it again.'
            )
    if args.write:
        print(f'wrote {readme_tables.write_model_index()}')
    elif not readme_tables.model_index_is_current():
        problems.append(
            'model-index.yml does not name the metafiles that there are; '
            'python dev/check_metafiles.py --write makes it again.'
        )
    if problems:
        raise UserError('\n  '.join([f'{len(problems)} problems:', *problems]))


if __name__ == '__main__':
    main()
