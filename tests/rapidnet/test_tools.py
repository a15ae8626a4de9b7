"""RapidNet by the command lines: the benchmark, converting, testing an official file."""

import re

import pytest
import torch

from helpers import golden
from helpers.tool import run
from paca_mm.analysis.speed.contestants import Setting, make, variants
from paca_mm.errors import UserError
from paca_mm.paths import assets_root

SMALL = Setting(batch=1, height=64, width=64)


def test_rows_are_contestants_and_can_be_folded():
    plain, folded = make('rapidnet_ti', SMALL), make('rapidnet_ti+deploy', SMALL)
    assert plain.run().shape == folded.run().shape == torch.Size([1, 1000])
    assert folded.facts.params < plain.facts.params == 5_485_616 + 225_000
    assert folded.facts.macs == plain.facts.macs
    assert len(list(folded.model.modules())) < 0.8 * len(list(plain.model.modules()))
    assert 'deploy' in variants()


@pytest.mark.parametrize(
    ('name', 'mode', 'message'),
    [
        ('rapidnet_ti+plain', 'infer', "RapidNet has no variant 'plain'; it knows cp, deploy"),
        ('paca_tiny+deploy', 'infer', "PaCa-ViT has no variant 'deploy'"),
        ('rapidnet_ti+deploy+cp', 'train', r'\+cp does nothing'),
        ('rapidnet_ti+deploy', 'train', 'in deploy mode'),
    ],
)
def test_variants_that_do_not_fit(name, mode, message):
    with pytest.raises(UserError, match=message):
        make(name, Setting(mode, 1, 64, 64)).run()


def official_file(folder):
    meta, _ = golden.load('rapidnet_ti')
    state = golden.state_dict(meta['shapes'])
    raw = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({'state_dict': raw, 'state_dict_ema': state}, folder / 'official.pth')
    return state


def test_the_convert_command_takes_the_averaged_weights(tmp_path, capsys):
    state = official_file(tmp_path)
    ours, back = tmp_path / 'ours.pth', tmp_path / 'back.pth'
    assert run('convert_official', tmp_path / 'official.pth', ours, '--row', 'ti') == 0
    out = capsys.readouterr().out
    assert "classification checkpoint; backbone: arch='ti' (the published row ti)" in out
    assert 'from state_dict_ema' in out
    assert run('convert_official', ours, back, '--to-official') == 0
    written = torch.load(back)
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], state[key]) for key in state)


@pytest.mark.slow
def test_the_test_command_takes_an_official_file(tmp_path, monkeypatch, capfd):
    """Of a classifier with 1000 classes, on images of the shapes: no accuracy, but every key."""
    pytest.importorskip('mmpretrain')
    from paca_mm.datasets.shapes import ensure_shapes

    official_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    ensure_shapes(tmp_path / 'shapes', num_train=6, num_val=6)
    for i in range(6, 1000):  # six classes have images
        (tmp_path / 'shapes/imagefolder/val' / f'z{i:03d}').mkdir()
    config = tmp_path / 'ti_on_folders.py'
    config.write_text(
        f"""_base_ = {str(assets_root() / 'configs/cls/rapidnet/rapidnet_ti_in1k.py')!r}
data = dict(
    _delete_=True, type='CustomDataset', data_root={str(tmp_path / 'shapes')!r},
    data_prefix='imagefolder/val', test_mode=True, pipeline=_base_.test_pipeline,
)
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
"""
    )
    code = run('test', config, tmp_path / 'official.pth', '--work-dir', tmp_path / 'work')
    out, err = capfd.readouterr()
    assert code == 0, err
    assert 'accuracy/top1' in out
    assert '(state_dict_ema)' in out + err


def test_python_of_the_readme(tmp_path, monkeypatch):
    """The converted file gives mmpretrain's own functions the averaged weights."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('modelindex')
    official_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run('convert_official', 'official.pth', 'rapidnet_ti_ours.pth') == 0
    readme = (assets_root() / 'configs/cls/rapidnet/README.md').read_text()
    teacher, example = re.findall(r'```python\n(.*?)```', readme, re.DOTALL)
    names = {}
    exec(example, names)
    meta, answers = golden.load('rapidnet_ti')
    with torch.no_grad():
        logits = names['folded'](golden.image(meta['input'][0], *meta['input'][2:]))
    expected = torch.from_numpy(answers['reparam_logits'])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-5)
    exec(teacher, names)
    from mmpretrain.apis import ModelHub, list_models

    assert ModelHub.get(names['model']['teacher']).weights
    assert {f'rapidnet_{row}_in1k' for row in ('ti', 's', 'm', 'b')} == {*list_models('rapidnet_*')}
