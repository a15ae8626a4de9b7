"""``paca-mm config``: configs of ours in any folder, read by mmengine alone."""

import pytest
from mmengine.config import Config

from paca_mm.bases import complete, copied, derived
from paca_mm.cli import main
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.paths import assets_root, config, find_config

CONFIGS = assets_root() / 'configs'
NAMES = ['cls/paca_finetune', 'det/mask_rcnn_paca_shapes', 'seg/rapidnet/fpn_rapidnet_shapes']


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('write', [derived, copied, complete])
def test_what_is_written_is_the_config_wherever_it_is_saved(tmp_path, monkeypatch, name, write):
    path = CONFIGS / f'{name}.py'
    mine = tmp_path / 'mine.py'
    mine.write_text(write(path))
    monkeypatch.chdir(tmp_path)
    assert Config.fromfile(mine).to_dict() == Config.fromfile(path).to_dict()


def test_a_derived_file_wins_over_ours_and_names_no_place_of_this_machine(tmp_path, capsys):
    main(['config', 'mask_rcnn_paca'])
    text = capsys.readouterr().out
    assert str(assets_root()) not in text
    assert len(text.splitlines()) < 8
    mine = tmp_path / 'mine.py'
    mine.write_text(f'{text}train_dataloader = dict(batch_size=7)\n')
    cfg = load_config(str(mine))
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'


def test_bases_of_a_host_stay_as_they_are(tmp_path):
    pytest.importorskip('mmdet')
    path = CONFIGS / 'det/recipes/retinanet_paca.py'
    (tmp_path / 'mine.py').write_text(copied(path))
    assert "'mmdet::" in (tmp_path / 'mine.py').read_text()
    assert Config.fromfile(tmp_path / 'mine.py').to_dict() == Config.fromfile(path).to_dict()


def test_a_copy_keeps_the_words_of_the_file():
    path = CONFIGS / 'cls' / 'paca_finetune.py'
    text = copied(path)
    assert "paths.config('cls/paca_small_in1k.py')" in text
    kept = [line for line in text.splitlines() if not line.startswith('_base_')]
    old = [line for line in path.read_text().splitlines() if not line.startswith('_base_')]
    assert kept == old


def test_every_config_is_listed_and_can_be_copied(capsys):
    main(['config'])
    listed = capsys.readouterr().out.splitlines()
    assert {'cls/paca_finetune', 'det/mask_rcnn_paca'} <= set(listed)
    assert not [name for name in listed if '/_base_/' in f'/{name}']
    for name in listed:
        text = copied(find_config(name))
        assert "__import__('paca_mm.paths').paths.config(" in text or "_base_ = 'mm" in text
        assert '/mm' not in text  # a host's base is no path of ours
        assert "'./" not in text
        assert "'../" not in text


@pytest.mark.parametrize(
    'typed',
    [
        'mask_rcnn_paca',
        'mask_rcnn_paca.py',
        'det/mask_rcnn_paca',
        'det/mask_rcnn_paca.py',
        'configs/det/mask_rcnn_paca.py',
        str(CONFIGS / 'det' / 'mask_rcnn_paca.py'),
    ],
)
def test_a_config_is_found_by_what_one_types(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(typed) == CONFIGS / 'det' / 'mask_rcnn_paca.py'
    assert config(typed) == str(CONFIGS / 'det' / 'mask_rcnn_paca.py')


def test_ones_own_file_comes_first_but_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.py').touch()
    assert find_config('mine.py').resolve() == tmp_path / 'mine.py'
    with pytest.raises(UserError, match=r"no config 'mine.py'"):
        config('mine.py')


def test_a_misspelled_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r'Did you mean:\n  configs/cls/paca_finetune\.py'):
        find_config('paca_fintune')


def test_a_copy_without_its_base_says_what_to_write(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text((CONFIGS / 'cls' / 'paca_finetune.py').read_text())
    with pytest.raises(UserError, match='is not there') as e:
        load_config(str(mine))
    assert f'{tmp_path / "paca_small_in1k.py"}' in str(e.value)
    line = str(e.value).partition('to fix it: ')[2]
    assert line.startswith('_base_ = ')
    mine.write_text(mine.read_text().replace("_base_ = './paca_small_in1k.py'", line))
    assert load_config(str(mine)).model.head.num_classes == 2


@pytest.mark.parametrize(
    ('base', 'cure'),
    [
        ('paca_mm::cls/paca_shapes.py', "paths.config('cls/paca_shapes.py')"),
        ('../somewhere/mine_too.py', 'correct the path'),
        ('../_base_/runtime.py', "paths.config('_base_/runtime.py')"),
    ],
)
def test_a_base_that_is_not_there_is_named_with_its_cure(tmp_path, base, cure):
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = [{base!r}]\n')
    with pytest.raises(UserError) as e:
        load_config(str(mine))
    assert base in str(e.value)
    assert cure in str(e.value)


def test_another_fault_of_a_config_keeps_its_words(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text(
        "_base_ = __import__('paca_mm.paths').paths.config('cls/paca_shapes')\nx = 1 +\n"
    )
    with pytest.raises(UserError, match='cannot be read as a config'):
        load_config(str(mine))
