"""``import paca_mm.names``: the hosts' inferencers and mmpretrain find our models by their names."""

import importlib

import pytest

from paca_mm.paths import assets_root
from paca_mm.zoo import metafiles

CASES = [
    ('mmdet', 'DetInferencer', 'mask_rcnn_paca_tiny', 'det'),
    ('mmseg', 'MMSegInferencer', 'paca_head_paca_tiny_ade20k', 'seg'),
]


def entry_of(task, name):
    (found,) = (
        e for m in metafiles.metafiles(task) for e in metafiles.read_metafile(m) if e.name == name
    )
    return found


@pytest.fixture
def asked(monkeypatch):
    """The weights that an inferencer asks for; it gets none of them."""
    from mmengine.infer import infer

    seen = []

    def load(file, map_location):
        seen.append(file)
        return {
            'state_dict': {},
            'meta': {'dataset_meta': {'classes': ('a', 'b'), 'palette': None}},
        }

    monkeypatch.setattr(infer, '_load_checkpoint', load)
    return seen


@pytest.mark.parametrize(('host', 'inferencer', 'name', 'task'), CASES)
def test_an_inferencer_takes_a_name(host, inferencer, name, task, asked):
    pytest.importorskip(host)
    import paca_mm.names  # noqa: F401

    apis = importlib.import_module(f'{host}.apis')
    made = getattr(apis, inferencer)(name, device='cpu')
    entry = entry_of(task, name)
    assert asked == [entry.weights]
    assert entry.weights.startswith('https://')
    assert type(made.model.backbone).__name__ == 'PaCaViT'
    assert made.cfg.filename == str(assets_root() / entry.config)


@pytest.mark.parametrize(('host', 'inferencer', 'name', 'task'), CASES)
def test_a_host_lists_its_own_and_ours_of_its_task(host, inferencer, name, task):
    pytest.importorskip(host)
    import paca_mm.names  # noqa: F401

    apis = importlib.import_module(f'{host}.apis')
    listed = getattr(apis, inferencer).list_models(host)
    assert name in listed
    others = {e.name for m in metafiles.metafiles() for e in metafiles.read_metafile(m)} - {
        e.name for m in metafiles.metafiles(task) for e in metafiles.read_metafile(m)
    }
    assert not others & set(listed)
    assert len(listed) > 50  # the host's own
    assert len([x for x in listed if x == name]) == 1


def test_registering_twice_adds_nothing():
    pytest.importorskip('mmdet')
    from mmdet.apis import DetInferencer

    from paca_mm import zoo

    zoo.register()
    before = DetInferencer.list_models('mmdet')
    zoo.register()
    assert DetInferencer.list_models('mmdet') == before


def test_mmpretrain_takes_a_name():
    pytest.importorskip('mmpretrain')
    from mmpretrain import list_models

    import paca_mm.names  # noqa: F401

    assert 'paca_small_in1k' in list_models('paca_*')
