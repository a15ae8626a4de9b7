"""Test-time augmentation: by ``tools/test.py --tta``, and as the hosts' own scripts do it."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner

from helpers import tiny
from helpers.configs import build
from helpers.tool import run
from paca_mm.checkpoint.load import load_whole, unwrapped
from paca_mm.engine.config import load_config
from paca_mm.engine.tasks import TASKS
from paca_mm.engine.tta import use_tta

HOSTS = {'det': 'mmdet', 'seg': 'mmseg', 'cls': 'mmpretrain'}
every_task = pytest.mark.parametrize('task', list(HOSTS))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The dataset, and the config and a random checkpoint of each task."""
    folder = tmp_path_factory.mktemp('tta')
    tiny.write_shapes(folder)
    return folder


@pytest.fixture
def files(task, folder, monkeypatch):
    """Config and checkpoint of a task."""
    pytest.importorskip(HOSTS[task])
    monkeypatch.chdir(folder)
    config, checkpoint = folder / f'{task}.py', folder / f'{task}.pth'
    if not checkpoint.exists():
        torch.manual_seed(7)
        model = build(tiny.tiny(task, config))
        with torch.no_grad():  # away from the symmetry of a fresh one
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        torch.save(model.state_dict(), checkpoint)
    return config, checkpoint


def augmented(task, cfg):
    """A config as the host's own test.py makes it of ``--tta``, where it finds both settings."""
    cfg = copy.deepcopy(cfg)
    if 'tta_pipeline' not in cfg:  # of mmdet and mmpretrain: as theirs
        cfg.tta_pipeline = copy.deepcopy(cfg.test_dataloader.dataset.pipeline)
        pack = cfg.tta_pipeline[-1]
        if task == 'det':
            keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
            pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pack]])
    wrapper = cfg.get('tta_model') or dict(type='mmpretrain.AverageClsScoreTTA')
    cfg.model = ConfigDict(**wrapper, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    return cfg


@every_task
def test_the_command_gives_what_the_hosts_runner_gives(task, files, folder, capfd):
    config, checkpoint = files
    out = folder / f'{task}.pkl'
    assert run('test', config, checkpoint, '--tta', '--work-dir', folder / f'ours_{task}', '--out',
               out, '--show-dir', folder / f'shown_{task}') == 0  # fmt: skip
    capfd.readouterr()
    assert len([*folder.rglob(f'*shown_{task}/**/*.png')]) >= 2
    assert len(pickle.loads(out.read_bytes())) >= 2
    ours = json.loads(max(Path(f'ours_{task}').glob('*/*.json')).read_text())

    cfg = augmented(task, load_config(str(config)))
    cfg.update(work_dir=f'theirs_{task}', load_from=str(checkpoint))
    theirs = Runner.from_cfg(cfg).test()  # mmengine's Runner and loader, as in mmseg's test.py
    shared = [key for key in theirs if not key.endswith('time')]
    assert shared
    assert {key: ours[key] for key in shared} == pytest.approx({key: theirs[key] for key in shared})


@every_task
def test_our_runner_takes_what_the_hosts_scripts_hand_it(task, files):
    config, checkpoint = files
    cfg = augmented(task, load_config(str(config)))
    cfg.update(work_dir=f'handed_{task}', load_from=str(checkpoint))
    runner = RUNNERS.build(cfg)
    assert type(runner).__name__ == 'SafeRunner'
    assert runner.test()
    inner = unwrapped(runner.model)
    for key, value in torch.load(checkpoint).items():
        assert torch.equal(inner.state_dict()[key], value), key


@every_task
def test_the_first_view_is_the_image_as_it_is(task, files):
    """Drawings show it, and what is not merged is taken from it."""
    cfg = load_config(str(files[0]))
    cfg.pop('tta_pipeline', None)
    module = cfg.model
    use_tta(cfg, TASKS[task])
    assert cfg.model.module is module
    views = cfg.test_dataloader.dataset.pipeline[-1]['transforms']
    flips = next(steps for steps in views if steps[0]['type'] == 'RandomFlip')
    assert [flip['prob'] for flip in flips] == [0, 1]


def test_scores_of_classes_are_averaged_over_the_image_and_its_mirror_image(folder, monkeypatch):
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    monkeypatch.chdir(folder)
    cfg = tiny.tiny('cls', folder / 'averaged.py')
    model = build(cfg).eval()
    wrapped = MODELS.build({**TASKS['cls'].tta_model(cfg.model), 'module': model})
    image = torch.randint(255, (3, 64, 64), dtype=torch.uint8)
    views = [image, image.flip(2)]
    with torch.no_grad():
        alone = [
            model.test_step(dict(inputs=[view], data_samples=[DataSample()]))[0].pred_score
            for view in views
        ]
        data = dict(inputs=[[v] for v in views], data_samples=[[DataSample()] for _ in views])
        merged = wrapped.test_step(data)[0]
    assert not torch.equal(*alone)
    torch.testing.assert_close(merged.pred_score, sum(alone) / 2)


def test_masks_go_with_the_boxes_that_are_kept():
    pytest.importorskip('mmdet')
    from mmdet.models.test_time_augs import DetTTAModel
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from paca_mm.registry import MODELS as OURS

    MaskTTAModel = OURS.get('MaskTTAModel')

    def view(boxes, scores, masks, **flip):
        meta = dict(ori_shape=(4, 8), img_path='a.png', **flip)
        return DetDataSample(
            metainfo=meta,
            pred_instances=InstanceData(
                bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
                scores=torch.tensor(scores),
                labels=torch.zeros(len(scores), dtype=torch.long),
                masks=masks,
            ),
        )

    left = torch.zeros(1, 4, 8, dtype=torch.bool)
    left[0, 1:3, 0:2] = True
    right = torch.zeros(1, 4, 8, dtype=torch.bool)
    right[0, 1:3, 6:8] = True
    small = torch.zeros(1, 4, 8, dtype=torch.bool)
    small[0, 1, 0] = True

    def merged_by(cls, *views):
        tta = cls.__new__(cls)  # a model to wrap is not needed to merge
        torch.nn.Module.__init__(tta)
        tta.tta_cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=5)
        return tta.merge_preds([copy.deepcopy(views)])[0].pred_instances

    plain = view([[0, 1, 2, 3]], [0.6], small, flip=False, flip_direction=None)
    # The same box with a better score and its own mask, and one more, both mirrored.
    mirrored = view(
        [[6, 1, 8, 3], [0, 1, 2, 3]], [0.9, 0.5], torch.cat([right, left]),
        flip=True, flip_direction='horizontal',
    )  # fmt: skip
    merged = merged_by(MaskTTAModel, plain, mirrored)
    assert merged.bboxes.tolist() == [[0, 1, 2, 3], [6, 1, 8, 3]]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5])
    assert torch.equal(merged.masks, torch.cat([left, right]))
    upside = view([[0, 0, 2, 1]], [0.7], small.flip(1), flip=True, flip_direction='vertical')
    both = view([[6, 0, 8, 1]], [0.1], small.flip(1, 2), flip=True, flip_direction='diagonal')
    merged = merged_by(MaskTTAModel, upside, both)
    assert merged.bboxes.tolist() == [[0, 3, 2, 4]]
    assert torch.equal(merged.masks, small.flip(1).flip(1))
    nothing = view([], [], torch.zeros(0, 4, 8), flip=False, flip_direction=None)
    assert not len(merged_by(MaskTTAModel, nothing, nothing))

    # Boxes are those of mmdet's own, which refuses masks.
    with pytest.raises(AssertionError, match='instance segmentation'):
        merged_by(DetTTAModel, plain, mirrored)
    for sample in (plain, mirrored):
        del sample.pred_instances.masks
    theirs, ours = (merged_by(cls, plain, mirrored) for cls in (DetTTAModel, MaskTTAModel))
    assert torch.equal(theirs.bboxes, ours.bboxes)
    assert torch.equal(theirs.scores, ours.scores)
    assert 'masks' not in ours


def test_segmentation_takes_six_sizes_and_loads_labels_behind_them():
    pytest.importorskip('mmseg')
    cfg = load_config('configs/seg/paca_head_paca_tiny_ade20k.py')
    own = TASKS['seg'].tta_pipeline(cfg.test_dataloader.dataset.pipeline)
    assert own == cfg.tta_pipeline  # which mmsegmentation's own script asks for
    sizes, flips, *behind = own[-1]['transforms']
    assert [s['scale'] for s in sizes] == [(1024, 256), (1536, 384), (2048, 512), (2560, 640),
                                           (3072, 768), (3584, 896)]  # fmt: skip
    assert [s['prob'] for s in flips] == [0, 1]
    assert [s[0]['type'] for s in behind] == ['LoadAnnotations', 'PackSegInputs']
    use_shapes = load_config('configs/seg/paca_head_paca_tiny_ade20k.py', shapes=True)
    assert use_shapes.tta_pipeline == TASKS['seg'].tta_pipeline(
        use_shapes.test_dataloader.dataset.pipeline
    )


def test_a_wrapper_around_a_wrapper_is_looked_through():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.register_buffer('steps', torch.tensor(0))

    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert unwrapped(Wrapper(Wrapper(model))) is model
    model.module = torch.nn.Linear(2, 2)  # a part of that name is no wrapping
    assert unwrapped(Wrapper(model)) is model


def test_augmentation_inside_a_distributed_model_loads_too(folder, monkeypatch):
    pytest.importorskip('mmpretrain')
    import torch.distributed as dist
    from mmengine.model import MMDistributedDataParallel

    monkeypatch.chdir(folder)
    cfg = tiny.tiny('cls', folder / 'distributed.py')
    state = build(cfg).state_dict()
    wrapped = MODELS.build({**TASKS['cls'].tta_model(cfg.model), 'module': build(cfg)})
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = MMDistributedDataParallel(wrapped)
        assert load_whole(model, {'state_dict': state}, 'a.pth', strict=True).missing == ()
    finally:
        dist.destroy_process_group()
    assert all(
        torch.equal(unwrapped(model).state_dict()[key], value) for key, value in state.items()
    )
