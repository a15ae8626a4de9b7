"""Check the environment that paca_mm runs in, and say what is missing and how to fix it.

Ends with code 0 if paca_mm can be used, with 2 if not.
"""

import argparse

EXAMPLES = ['', '--json']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='for bug reports')


def run(args: argparse.Namespace) -> int:
    from paca_mm import environment

    checks = environment.check_environment()
    print(environment.as_json(checks) if args.json else environment.as_table(checks))
    return 0 if environment.is_usable(checks) else 2
