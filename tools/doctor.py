"""Check the environment that paca_mm runs in, and say what is missing and how to fix it."""

import sys

try:
    from paca_mm.cli import front
except ModuleNotFoundError as error:
    if error.name != 'paca_mm':
        raise
    cure = 'make setup in the checkout and its .venv/bin/python, or pip install -e . here'
    print(f'fail  paca_mm  not installed for {sys.executable}  -> {cure}\nnot usable')
    sys.exit(2)

main = front('doctor')

if __name__ == '__main__':
    main()
