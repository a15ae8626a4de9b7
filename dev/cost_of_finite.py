"""What FiniteHook costs in a training step, on the shapes configs: pairs of steps, with and without it.

    OMP_NUM_THREADS=1 python dev/cost_of_finite.py --pairs 200

Each pair gives a ratio; the median of all, and where it lies with 95 % certainty, are printed.
"""

import argparse
import copy
import platform
import statistics
import time

import torch
from mmengine.runner import Runner

from paca_mm.datasets.shapes import ensure_shapes
from paca_mm.engine.config import load_config
from paca_mm.engine.finite import FiniteHook
from paca_mm.engine.tasks import TASKS
from paca_mm.registry import RUNNERS


def steps(task: str, pairs: int, folder: str) -> tuple[list[float], list[float], int]:
    """Milliseconds of steps without the hook and with it; the number of parameters."""
    cfg = load_config(TASKS[task].shapes_config)
    cfg.work_dir = folder
    cfg.log_level = 'ERROR'
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    runner = RUNNERS.build(cfg)
    model = runner.model.train()
    optimizer = copy.deepcopy(cfg.optim_wrapper)
    plain, held = (
        runner.build_optim_wrapper(cfg.optim_wrapper),
        runner.build_optim_wrapper(optimizer),
    )
    model.init_weights()
    for wrapper in (plain, held):
        for group in wrapper.param_groups:
            group['lr'] = 1e-5  # the numbers stay those of an ordinary step
    runner.optim_wrapper = held
    hook = FiniteHook()
    hook.before_train(runner)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    took: tuple[list[float], list[float]] = [], []
    for number in range(2 * pairs + 2):
        guarded = (number + number // 2) % 2  # either is the first of a pair in turn
        wait()
        began = clock(model)
        if guarded:
            hook.before_train_iter(runner, number, batch)
        losses = model.train_step(batch, held if guarded else plain)
        if guarded:
            hook.after_train_iter(runner, number, batch, losses)
        for value in losses.values():
            value.item()  # as mmengine does behind every step
        wait()
        if number > 1:  # the first of each is not like the others
            took[guarded].append(1000 * (clock(model) - began))
    return *took, sum(p.numel() for p in model.parameters())


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock(model: torch.nn.Module) -> float:
    """Seconds; on a CPU those that this process computed, whatever else the machine does."""
    on_gpu = next(model.parameters()).is_cuda
    return time.perf_counter() if on_gpu else time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--pairs', type=int, default=50, help='of steps')
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
    parser.add_argument('--work-dir', default='work_dirs/cost_of_finite')
    args = parser.parse_args()
    ensure_shapes('data/shapes')
    gpu = torch.cuda.is_available()
    print(
        f'{torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine()}, '
        f'torch {torch.__version__}, {torch.get_num_threads()} threads, {args.pairs} pairs of steps, '
        f'{"wall" if gpu else "process"} time'
    )
    for task in args.tasks:
        plain, held, count = steps(task, args.pairs, args.work_dir)
        more = sorted(100 * (b / a - 1) for a, b in zip(plain, held, strict=True))
        apart = int(0.98 * len(more) ** 0.5)  # of the order statistics around the median
        middle = len(more) // 2
        low, high = more[max(middle - apart, 0)], more[min(middle + apart, len(more) - 1)]
        print(
            f'{task}: {statistics.median(plain):.1f} ms without, {statistics.median(more):+.2f} % '
            f'({low:+.2f} to {high:+.2f}) with it, {count / 1e6:.1f} million parameters',
            flush=True,
        )


if __name__ == '__main__':
    main()
