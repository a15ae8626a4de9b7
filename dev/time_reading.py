"""What comparing checksums costs when a checkpoint is read: seconds a GB, with and without.

    python dev/time_reading.py

The two ways take turns on one file in the system's memory; the medians are printed.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from paca_mm.checkpoint import read_checkpoint

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--size', type=int, default=1024, help='of the checkpoint, in MiB')
    parser.add_argument('--rounds', type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'weights.pth'
        weights = {f'layer{i}.weight': torch.randn(4 * MIB) for i in range(args.size // 16)}
        torch.save({'state_dict': weights}, file)
        size = file.stat().st_size / 1e9
        took: dict[str, list[float]] = {'0': [], '1': []}
        for _ in range(args.rounds + 1):  # the first round is not counted
            for skipped, seconds in took.items():
                os.environ['PACA_MM_SKIP_CRC'] = skipped
                began = time.process_time()
                read_checkpoint(file)
                seconds.append((time.process_time() - began) / size)
    compared, skipped = (statistics.median(seconds[1:]) for seconds in took.values())
    print(f'{size:.2f} GB, {args.rounds} rounds, one thread, CPU seconds a GB (medians):')
    print(f'  compared {compared:.2f}, skipped {skipped:.2f}, difference {compared - skipped:.2f}')


if __name__ == '__main__':
    main()
