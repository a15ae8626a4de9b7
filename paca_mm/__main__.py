"""``python -m paca_mm``: the same as the command ``paca-mm``."""

from paca_mm.cli import main

if __name__ == '__main__':
    main()
