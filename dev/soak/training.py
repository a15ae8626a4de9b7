"""The trainings that are hurt, and how two of them are compared."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.latest import candidates
from paca_mm.paths import assets_root

from .process import Process

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(
        _delete_=True,
        type='paca_mm.PaCaViT',
        arch=dict(embed_dims=(8,) * 4, num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(1,) * 4),
        num_clusters=(3, 3, 3, 0),
        drop_path_rate=0.2,
        out_indices=(3,),
    ),
    head=dict(in_channels=8),
)
train_dataloader = dict(batch_size=2, num_workers={workers}, persistent_workers={persistent})
val_dataloader = dict(batch_size=4, num_workers={workers}, persistent_workers={persistent})
test_dataloader = val_dataloader
randomness = dict(seed=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=10, end=24, T_max=14),
]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch={by_epoch}, interval={interval}, max_keep_ckpts=3,
                    save_best='accuracy/top1', rule='greater'),
)
custom_hooks = {hooks}
"""
EPOCHS = 'train_cfg = dict(_delete_=True, by_epoch=True, max_epochs={steps}, val_interval=1)\n'
ITERATIONS = """
train_cfg = dict(_delete_=True, by_epoch=False, max_iters={steps}, val_interval=4)
log_processor = dict(by_epoch=False)
"""


@dataclass(frozen=True)
class Variant:
    """A kind of training: its loop, the workers of its data loaders, whether a step is ruined."""

    by_epoch: bool
    workers: int
    poisoned: bool = False

    @property
    def name(self) -> str:
        loop = 'epochs' if self.by_epoch else 'iterations'
        return f'{loop}_{self.workers}_workers' + ('_poisoned' if self.poisoned else '')

    def config(self, steps: int | None = None) -> str:
        steps = steps or (4 if self.by_epoch else 24)
        hooks = "[dict(type='mmengine.SoakPoison', at=(5, 13))]" if self.poisoned else '[]'
        return CONFIG.format(
            base=str(assets_root() / 'configs/cls/paca_shapes.py'),
            workers=self.workers,
            persistent=self.workers > 0 and self.by_epoch,
            by_epoch=self.by_epoch,
            interval=1 if self.by_epoch else 4,
            hooks=hooks,
        ) + (EPOCHS if self.by_epoch else ITERATIONS).format(steps=steps)


VARIANTS = [
    Variant(by_epoch=True, workers=2),
    Variant(by_epoch=False, workers=2),
    Variant(by_epoch=True, workers=0, poisoned=True),
    Variant(by_epoch=False, workers=0),
    Variant(by_epoch=False, workers=2, poisoned=True),
    Variant(by_epoch=True, workers=0),
]


def prepare() -> None:
    """Import what trainings need, and register a hook that puts NaN into the images of some steps."""
    parts = ('datasets', 'engine', 'evaluation', 'models', 'visualization')
    for module in ('paca_mm.engine.launch', 'paca_mm.models', *(f'mmpretrain.{p}' for p in parts)):
        importlib.import_module(module)
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    class SoakPoison(Hook):
        def __init__(self, at: tuple[int, ...]) -> None:
            self.at = at

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter in self.at:
                inputs = data_batch['inputs']
                if isinstance(inputs, torch.Tensor):
                    data_batch['inputs'] = inputs.float() * float('nan')
                else:
                    data_batch['inputs'] = [image.float() * float('nan') for image in inputs]

    HOOKS.register_module(module=SoakPoison, force=True)


@dataclass
class Training:
    """A training that faults are done to, and the same one that was left alone.

    Attributes:
        variant: What kind.
        work: Its folder.
        reference: That of the undisturbed one.
        seconds: How long that took.
        faults: Those that were done so far: kind, and what went wrong.
        done: Whether it has come to its end.
        started: All its processes so far.
    """

    variant: Variant
    work: Path
    reference: Path
    seconds: float
    faults: list[tuple[str, list[str]]] = field(default_factory=list)
    done: bool = False
    started: list[Process] = field(default_factory=list)

    def start(
        self, *words: str, hurt: Callable[[], None] | None = None, name: str = 'log.txt'
    ) -> Process:
        """Train from the newest checkpoint on."""
        config = self.reference.parent / f'{self.variant.name}.py'
        line = [str(config), '--work-dir', str(self.work), '--resume', *words]
        # Not on the disk that is filled: what is said about it has to be read.
        self.started.append(Process(line, self.reference.parent / name, hurt))
        return self.started[-1]

    def end(self, process: Process, *codes: int) -> tuple[int, str, list[str]]:
        """Wait for the end, which is one of these exit codes or the training's own."""
        code, text, wrong = process.end()
        self.done = code == 0
        if code not in (0, *codes):
            last = (text.strip().splitlines() or ['nothing'])[-1]
            wrong.append(f'exit code {code} where {codes} belongs: {last[:200]}')
        return code, text, wrong

    def checkpoints(self) -> list[Path]:
        """The newest first."""
        return candidates(self.work)[0]


def differences(work: Path, reference: Path) -> list[str]:
    """What a training has left otherwise than the undisturbed one."""
    found = []
    names, expected = ({p.name for p in folder.glob('*.pth')} for folder in (work, reference))
    if names != expected:
        found.append(
            f'files: {sorted(names - expected)} too much, {sorted(expected - names)} missing'
        )
    if unfinished := [p.name for p in work.iterdir() if p.name.endswith('.part')]:
        found.append(f'unfinished files: {unfinished}')
    for name in sorted(names & expected):
        ours, theirs = (read_checkpoint(folder / name) for folder in (work, reference))
        parts = ('state_dict', 'optimizer', 'param_schedulers')
        found += [f'{name}: {p} differs' for p in parts if not _same(ours.get(p), theirs.get(p))]
        scalars = [
            {
                key: buffer.data[0].tolist()
                for key, buffer in content['message_hub']['log_scalars'].items()
                if not key.endswith('time')
            }
            for content in (ours, theirs)
        ]
        if scalars[0] != scalars[1]:
            keys = [
                k for k in {**scalars[0], **scalars[1]} if scalars[0].get(k) != scalars[1].get(k)
            ]
            found.append(f'{name}: the curves of {sorted(keys)[:4]} differ')
    return found


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return ours == theirs
