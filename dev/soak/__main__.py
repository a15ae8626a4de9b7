"""Train, hurt, resume, compare: the table of docs/reliability.md is what this script has seen.

    make soak                       # ten minutes
    python -m dev.soak --minutes 2 --seed 7 --doc /tmp/t.md --json /tmp/t.json

A small classifier trains as ``tools/train.py`` does, on every kind of loop and data loader. Each
training is stopped, damaged and resumed several times, by faults that are drawn from a seed. At its end,
all its files are those of a training that nobody has disturbed, to the last bit, or it counts as lost.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from paca_mm.files import replacing

from .cycle import Soak
from .process import ROOT, SESSIONS, processes
from .table import table, where, write_table
from .training import VARIANTS, prepare

#: The most that the memory of a training may grow from its first third to its last.
GROWTH = 0.05


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument(
        '--seed', type=int, default=None, help='of the faults; default: another each time'
    )
    parser.add_argument('--faults', type=int, default=5, help='in one training')
    parser.add_argument('--doc', type=Path, default=ROOT / 'docs/reliability.md', help='the page')
    parser.add_argument('--json', type=Path, default=ROOT / 'benchmarks/results/soak.json')
    args = parser.parse_args(argv)
    seed = int.from_bytes(os.urandom(4), 'little') if args.seed is None else args.seed
    began = time.monotonic()
    end = began + 60 * args.minutes
    print(f'seed {seed}', flush=True)
    prepare()
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix='soak_') as name:
        folder = Path(name)
        os.chdir(folder)
        try:
            soak = Soak(folder, seed, VARIANTS)
            share = min(60.0, 6 * args.minutes)  # a tenth of the time for the memory
            for variant in itertools.cycle(VARIANTS):
                longest = max(seconds for _, seconds in soak.references.values())
                if time.monotonic() + share + 3 * longest > end and soak.trainings:
                    break
                soak.cycle(variant, args.faults)
            memory = soak.memory(share)
        finally:
            os.chdir(here)
    left = [pid for pid, session, *_ in processes() if session in SESSIONS]
    text = table(soak, (time.monotonic() - began) / 60, memory, len(left))
    write_table(args.doc, text)
    with replacing(args.json) as part:
        part.write_text(
            json.dumps(
                dict(
                    seed=seed, where=where(), trainings=soak.trainings, memory_mb=memory,
                    processes_left=len(left), injected=soak.injected,
                ), indent=1,
            )
        )  # fmt: skip
    print(text)
    grown = memory[1] > memory[0] * (1 + GROWTH)
    return 1 if soak.lost or left or grown else 0


if __name__ == '__main__':
    sys.exit(main())
