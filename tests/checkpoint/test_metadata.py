"""What a file of weights says about itself, and that it goes out and comes back in."""

import json
import sys
from collections import OrderedDict

import pytest
import torch

from helpers.rows import MINI, mini
from helpers.tiny import write_config, write_shapes
from helpers.tool import run
from paca_mm.checkpoint import load_pretrained, read_checkpoint
from paca_mm.checkpoint.convert import convert_file, describe_file, save_safetensors
from paca_mm.checkpoint.metadata import (
    class_count,
    facts_in_config,
    facts_in_meta,
    normalisation_in,
    settings_in_text,
)
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.models import PaCaViT

safetensors = pytest.importorskip('safetensors')
NORM = dict(channels='rgb', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
TEXT = """
model = dict(
    backbone=dict(type='paca_mm.PaCaViT', arch='tiny'),
    data_preprocessor=dict(
        bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        type='SegDataPreProcessor'),
    test_cfg=dict(mode='whole', stride=-3))
x = __import__('os').system('touch ran')
y = [dict(a=1), (2, None), {'b': True}]
"""


def header(file):
    with safetensors.safe_open(file, 'pt') as opened:
        return opened.metadata()


def trained(folder, **more):
    """What a training of ours leaves, of a size of its own."""
    model = mini('conv')
    state = OrderedDict((f'backbone.{k}', v) for k, v in model.state_dict().items())
    state['decode_head.conv_seg.weight'] = torch.zeros(2, 4, 1, 1)
    meta = dict(
        epoch=3, iter=300, cfg=TEXT,
        dataset_meta=dict(classes=('disc', 'star'), palette=[[1, 2, 3], [4, 5, 6]]),
    )  # fmt: skip
    torch.save(dict(state_dict=state, meta=meta, optimizer={}, **more), folder / 'iter_300.pth')
    return model, state, folder / 'iter_300.pth'


def test_a_training_goes_out_and_comes_back_in(tmp_path, capsys):
    model, state, file = trained(tmp_path)
    target = tmp_path / 'a.safetensors'
    assert run('convert_official', file, target) == 0
    assert '0 renamed' in capsys.readouterr().out
    said = header(target)
    assert said['format'] == 'pt'
    assert said['task'] == 'seg'
    assert said['converted_from'] == 'iter_300.pth'
    assert said['stated_by'] == 'the checkpoint'
    assert json.loads(said['classes']) == ['disc', 'star']
    assert json.loads(said['palette']) == [[1, 2, 3], [4, 5, 6]]
    assert json.loads(said['normalisation']) == NORM
    assert (said['epoch'], said['iter']) == ('3', '300')
    assert not (tmp_path / 'ran').exists()

    content = read_checkpoint(target)
    assert all(torch.equal(content['state_dict'][key], value) for key, value in state.items())
    assert content['meta']['dataset_meta']['classes'] == ('disc', 'star')
    assert content['meta']['iter'] == 300
    again = PaCaViT(arch=MINI, num_clusters=(7, 5, 3, 0))
    load_pretrained(again, target)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )

    # And back to what OpenMMLab's tools write, with all of it.
    convert_file(target, tmp_path / 'b.pth')
    back = read_checkpoint(tmp_path / 'b.pth')
    assert back['meta'] == {**content['meta'], 'converted_from': 'a.safetensors'}
    assert list(back['state_dict']) == list(content['state_dict'])


def test_it_says_what_it_is_of(tmp_path, capsys):
    _, _, file = trained(tmp_path)
    assert run('convert_official', file, '--describe') == 0
    of_training = capsys.readouterr().out
    assert 'classes        2: disc, star' in of_training
    assert 'trained        epoch 3, iter 300' in of_training
    assert 'normalisation  rgb, mean [123.675, 116.28, 103.53]' in of_training
    assert 'written by' not in of_training
    convert_file(file, tmp_path / 'a.safetensors')
    of_file = describe_file(tmp_path / 'a.safetensors')
    assert 'made from      iter_300.pth' in of_file
    assert 'written by     paca_mm' in of_file
    for words in ([file], [file, tmp_path / 'c.pth', '--describe']):
        assert run('convert_official', *words) == 2
        assert 'name the file to write behind SRC' in capsys.readouterr().err


def test_a_published_row_knows_its_classes_and_normalisation(tmp_path):
    with torch.device('meta'):
        own = PaCaViT('tiny').state_dict()
    state = {f'backbone.{key}': torch.zeros(value.shape) for key, value in own.items()}
    state['head.fc.weight'] = torch.zeros(1000, 4)
    torch.save(state, tmp_path / 'a.pth')
    convert_file(tmp_path / 'a.pth', tmp_path / 'a.safetensors')
    said = header(tmp_path / 'a.safetensors')
    assert said['row'] == 'tiny'
    assert said['stated_by'] == 'configs/cls/paca_tiny_in1k.py'
    assert json.loads(said['normalisation']) == NORM
    # Somebody's own classes are not ImageNet's.
    state['head.fc.weight'] = torch.zeros(10, 4)
    torch.save(state, tmp_path / 'a.pth')
    pytest.importorskip('mmpretrain')
    convert_file(tmp_path / 'a.pth', tmp_path / 'a.safetensors', force=True)
    assert 'stated_by' not in header(tmp_path / 'a.safetensors')


def test_a_config_that_is_named_wins(tmp_path):
    _, _, file = trained(tmp_path)
    cfg = load_config('configs/seg/paca_head_paca_shapes.py')
    convert_file(file, tmp_path / 'a.safetensors', config=cfg)
    said = header(tmp_path / 'a.safetensors')
    assert json.loads(said['classes'])[0] == 'background'
    assert said['stated_by'].endswith('paca_head_paca_shapes.py')
    assert json.loads(said['normalisation'])['channels'] == 'rgb'


def test_weights_of_any_model_go_into_safetensors(tmp_path):
    state = {'layer1.weight': torch.arange(6.0).view(2, 3).t(), 'tied': torch.zeros(2)}
    state['tied_too'] = state['tied']
    torch.save(state, tmp_path / 'resnet.pth')
    report = convert_file(tmp_path / 'resnet.pth', tmp_path / 'a.safetensors')
    assert 'backbone: none of this package' in str(report)
    found = read_checkpoint(tmp_path / 'a.safetensors')['state_dict']
    assert all(torch.equal(found[key], value) for key, value in state.items())
    with pytest.raises(UserError, match='a bare backbone checkpoint, not a detection one'):
        convert_file(tmp_path / 'resnet.pth', tmp_path / 'b.safetensors', task='det')
    with pytest.raises(UserError, match=r'holds no .*PaCa.* backbone'):
        convert_file(tmp_path / 'resnet.pth', tmp_path / 'b.safetensors', to_official=True)


def test_the_versions_of_the_modules_are_kept(tmp_path):
    state = mini('conv').state_dict()
    assert state._metadata['']['version'] == 1
    torch.save(state, tmp_path / 'a.pth')
    convert_file(tmp_path / 'a.pth', tmp_path / 'a.safetensors')
    found = read_checkpoint(tmp_path / 'a.safetensors')['state_dict']
    assert found._metadata[''] == {'version': 1}


def test_files_of_others_stay_bare_and_odd_facts_are_left_out(tmp_path):
    weights = {'a': torch.ones(2)}
    safetensors.torch.save_file(weights, tmp_path / 'a.safetensors', {'format': 'pt', 'x': 'y'})
    assert list(read_checkpoint(tmp_path / 'a.safetensors')) == ['a']
    odd = dict(
        paca_mm_version='0.1', classes='[1, 2]', palette='nonsense', iter='{', row='tiny',
        module_versions='{"a": 3}', normalisation='[]',
    )  # fmt: skip
    safetensors.torch.save_file(weights, tmp_path / 'b.safetensors', odd)
    content = read_checkpoint(tmp_path / 'b.safetensors')
    assert torch.equal(content['state_dict']['a'], weights['a'])
    assert content['meta'] == dict(paca_mm_version='0.1', row='tiny')


def test_a_config_as_a_text_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = settings_in_text(TEXT)
    assert 'x' not in found  # a call
    assert found['y'] == [{'a': 1}, [2, None], {'b': True}]
    assert found['model']['test_cfg'] == {'mode': 'whole', 'stride': -3}
    assert normalisation_in(found) == NORM
    assert not (tmp_path / 'ran').exists()
    for text in ('model = (' * 500, 'x = ' + '-' * 100_000 + '1', 'def', '\0', 'a' * 2**21):
        assert settings_in_text(text) == {}


def test_older_checkpoints_of_the_hosts_state_it_otherwise():
    text = 'img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)'
    facts = facts_in_meta(dict(CLASSES=('a', 'b'), PALETTE=None, config=text))
    assert facts.classes == ('a', 'b')
    assert facts.palette is None
    assert facts.normalisation == dict(channels='bgr', mean=[1, 2, 3], std=[4, 5, 6])
    assert facts_in_meta(dict(epoch=1)) is None


def test_every_task_states_its_classes():
    for file, count in (('det/mask_rcnn_paca_shapes', 6), ('seg/paca_head_paca_shapes', 7)):
        facts = facts_in_config(load_config(f'configs/{file}.py'), 'x')
        assert len(facts.classes) == count
        assert facts.normalisation
    assert class_count({'roi_head.bbox_head.fc_cls.weight': torch.zeros(81, 2)}) == 80
    assert class_count({'a': torch.zeros(81, 2)}) is None


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(UserError, match='pip install safetensors'):
        save_safetensors({'a': torch.ones(1)}, tmp_path / 'a.safetensors')
    (tmp_path / 'b.safetensors').write_bytes(b'x')
    with pytest.raises(UserError, match='pip install safetensors'):
        read_checkpoint(tmp_path / 'b.safetensors')


def test_the_hosts_read_it_too(tmp_path):
    """What loads the init_cfg of a host's module, and all of mmengine's own Runner."""
    from mmengine.runner import CheckpointLoader
    from mmengine.runner.checkpoint import load_checkpoint

    from paca_mm.engine.launch import let_hosts_read_safetensors

    model = torch.nn.Linear(2, 3)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    convert_file(tmp_path / 'a.pth', tmp_path / 'a.safetensors')
    before = dict(CheckpointLoader._schemes)
    try:
        let_hosts_read_safetensors()
        let_hosts_read_safetensors()
        for file in ('a.safetensors', 'a.pth'):
            other = torch.nn.Linear(2, 3)
            load_checkpoint(other, str(tmp_path / file))
            assert torch.equal(other.weight, model.weight)
    finally:
        CheckpointLoader._schemes = before


@pytest.mark.slow
def test_a_run_is_tested_begun_and_predicted_from_safetensors(tmp_path, monkeypatch, capsys):
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path)
    write_config(tmp_path / 'a.py', 'cls')
    assert run('train', 'a.py', '--work-dir', 'w') == 0
    assert run('convert_official', 'w/epoch_1.pth', 'a.safetensors') == 0
    said = header('a.safetensors')
    assert len(json.loads(said['classes'])) == 6
    metrics = []
    for file in ('w/epoch_1.pth', 'a.safetensors'):
        capsys.readouterr()
        assert run('test', 'a.py', file, '--work-dir', 't') == 0
        metrics.append([x for x in capsys.readouterr().out.splitlines() if x.startswith('  acc')])
    assert metrics[0] == metrics[1]
    assert metrics[0]
    words = 'train_cfg.max_epochs=1', 'load_from=a.safetensors'
    assert run('train', 'a.py', '--work-dir', 'v', '--cfg-options', *words) == 0
    log = next((tmp_path / 'v').glob('*/*.log')).read_text()
    assert 'tensors from a.safetensors (state_dict)' in log
    assert run('train', 'a.py', '--work-dir', 'v', '--resume', 'a.safetensors') == 2
    assert 'holds weights only' in capsys.readouterr().err
