"""Checks the environment that paca_mm runs in, and says what is missing and how to fix it.

    python tools/doctor.py [--json]

Ends with code 0 if paca_mm can be used, with 2 if not.
"""

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Check the environment that paca_mm runs in, and say how to fix it.'
    )
    parser.add_argument('--json', action='store_true', help='for bug reports')
    args = parser.parse_args(argv)
    try:
        from paca_mm import environment
    except ModuleNotFoundError as error:
        if error.name != 'paca_mm':
            raise
        cure = 'make setup in the checkout and its .venv/bin/python, or pip install -e . here'
        print(f'fail  paca_mm  not installed for {sys.executable}  -> {cure}\nnot usable')
        return 2
    checks = environment.check_environment()
    print(environment.as_json(checks) if args.json else environment.as_table(checks))
    return 0 if environment.is_usable(checks) else 2


if __name__ == '__main__':
    sys.exit(main())
