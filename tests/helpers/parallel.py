"""What the processes of a distributed job do in a test: train and validate tiny models, one by one.

    parallel.py FOLDER CHECK ...

The folder has the embedded dataset where configs look for it. Every process writes what became of
each check into ``FOLDER/CHECK_PROCESSES_RANK.pth``. One process is what the others are compared with.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, RUNNERS

from helpers import tiny
from helpers.tool import forget_runs
from paca_mm.engine.checks import check_config
from paca_mm.engine.config import load_config
from paca_mm.engine.distributed import losing_no_process, prepare_cpu
from paca_mm.engine.walk import walk

BATCH = 4


def config(task, folder, more=''):
    """Two iterations of plain SGD on four images in their order, without anything random."""
    cfg = load_config(str(tiny.write_config(folder / f'{task}_{os.getpid()}.py', task, more)))
    processes = int(os.environ.get('WORLD_SIZE', 1))
    for node in walk(cfg.model):  # no statistics of a process's own, and no random numbers
        if node.get('type') in ('BN', 'SyncBN'):
            node.update(type='GN', num_groups=4)
        if 'dropout_ratio' in node:
            node['dropout_ratio'] = 0.0
    cfg.model.backbone.drop_path_rate = 0.0
    loader = cfg.train_dataloader
    loader.update(batch_size=BATCH // processes, sampler=dict(type='DefaultSampler', shuffle=False))
    loader.pop('batch_sampler', None)
    loader.dataset.pipeline = [
        step
        for step in loader.dataset.pipeline
        if not any(word in step.type for word in ('Random', 'Rotate', 'PhotoMetric'))
    ]
    cfg.train_cfg = dict(by_epoch=False, max_iters=2, val_interval=2)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    cfg.param_scheduler = None
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=100, save_last=False))
    cfg.custom_hooks = []
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(folder / f'{task}_{processes}')
    cfg.launcher = 'pytorch' if processes > 1 else 'none'
    cfg.env_cfg.dist_cfg = dict(backend='gloo', timeout=60)
    return cfg


def trained(cfg):
    """Train; the weights, the losses of this process and what was measured."""
    forget_runs()
    check_config(cfg, ['train', 'val'])
    prepare_cpu(cfg, cfg.launcher)
    runner = RUNNERS.build(cfg)
    losses = []
    runner.register_hook(Keeps(losses))
    with contextlib.redirect_stdout(sys.stderr):
        runner.train()
    scalars = runner.message_hub.log_scalars
    metrics = {
        n: float(b.current())
        for n, b in scalars.items()
        if n.startswith('val/') and 'time' not in n
    }
    return dict(state=weights(runner.model), losses=losses, metrics=metrics)


def weights(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    if isinstance(model, FullyShardedDataParallel):
        return model.state_dict()
    return getattr(model, 'module', model).state_dict()


class Keeps(Hook):
    """Keeps the loss of each iteration."""

    def __init__(self, losses):
        self.losses = losses

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))


@HOOKS.register_module()
class Dies(Hook):
    """Ends one process, as the system does, while the others are in the same step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def classifier(folder):
    """Frozen stages, and the others recomputed."""
    return config('cls', folder, 'frozen_stages=2, with_cp=True')


def cls(folder):
    return trained(classifier(folder))


def seg(folder):
    return trained(config('seg', folder))


def det(folder):
    """A head whose losses are normalised by what all processes have."""
    cfg = config('det', folder)
    cfg.model = dict(
        type='ATSS',
        data_preprocessor=cfg.model.data_preprocessor,
        backbone=cfg.model.backbone,
        neck=cfg.model.neck,
        bbox_head=dict(
            type='ATSSHead',
            num_classes=6,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=4),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[4, 8, 16, 32, 64],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True),
        ),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1
        ),
        test_cfg=dict(
            nms_pre=50,
            min_bbox_size=0,
            score_thr=0.0,
            nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=10,
        ),
    )
    cfg.val_evaluator.metric = 'bbox'
    return trained(cfg)


def fsdp(folder):
    """The model in pieces, by mmengine's FlexibleRunner."""
    from mmengine.config import Config

    from paca_mm.paths import assets_root

    cfg = classifier(folder)
    cfg.runner_type = 'FlexibleRunner'
    cfg.strategy = Config.fromfile(assets_root() / 'configs/_base_/sharded.py').fsdp
    cfg.default_hooks.checkpoint.update(interval=2, by_epoch=False)
    found = trained(cfg)
    found['saved'] = f'{cfg.work_dir}/iter_2.pth'
    return found


def dies(folder):
    """One process is killed in the middle of a step."""
    cfg = classifier(folder)
    cfg.custom_hooks = [dict(type='Dies')]
    with losing_no_process():
        return trained(cfg)


def main(folder, *checks):
    for check in checks:
        found = globals()[check](Path(folder))
        found['processes'] = get_world_size()
        torch.save(found, f'{folder}/{check}_{get_world_size()}_{get_rank()}.pth')


if __name__ == '__main__':
    main(*sys.argv[1:])
