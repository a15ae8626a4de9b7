"""Every file of a config's datasets, and the report about them."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from helpers.own_data import coco, coco_config, masks, masks_config
from helpers.tool import run

pytest.importorskip('mmdet')

from paca_mm.analysis.dataset import scan as scanning


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)


def checked(cfg, *argv):
    """Dump a config and check its data; returns the exit code and the report."""
    cfg.dump('mine.py')
    code = run('check_dataset', 'mine.py', '--workers', '1', '--out', 'out', *argv)
    return code, json.loads(Path('out/report.json').read_text())


def kinds(report):
    found = {fault['kind'] for dataset in report['datasets'] for fault in dataset['faults']}
    return found | {fault['kind'] for fault in report['faults']}


def test_sound_data(tmp_path, capsys):
    code, report = checked(coco_config(coco(tmp_path / 'data')))
    assert (code, kinds(report)) == (0, set())
    train, val = report['datasets']  # it is tested on what it is validated on
    assert (train['images'], val['images'], train['empty']) == (4, 2, 0)
    assert train['classes'] == {'red box': 4, 'blue disc': 4}
    assert train['boxes']['small'] == 8
    assert train['boxes']['side_median'] == 24.0
    said = capsys.readouterr().out
    assert 'train_dataloader.dataset (CocoDataset): 4 images, 0 empty' in said
    assert 'no faults.' in said


def test_what_only_a_complete_look_finds(tmp_path, capsys):
    """A damaged image, an image that is validated on as well, a copy, an empty image."""

    def empty(content, split):
        if split == 'train':
            content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 3]

    root = coco(tmp_path / 'data', empty)
    content = (root / 'train/2.png').read_bytes()
    (root / 'train/2.png').write_bytes(content[:60] + bytes(40) + content[100:])
    (root / 'train/3.png').write_bytes((root / 'train/1.png').read_bytes())
    (root / 'val/1.png').write_bytes((root / 'train/1.png').read_bytes())
    code, report = checked(coco_config(root))
    assert code == 1
    assert kinds(report) == {'unreadable-image', 'train-image', 'same-image-twice'}
    assert report['datasets'][0]['empty'] == 1
    said = capsys.readouterr().out
    assert f'{root}/train/2.png is damaged' in said
    assert 'has 1 of its 2 images in common with what is trained on' in said
    page = Path('out/report.html').read_text()
    assert page.count('data:image/jpeg;base64') == 2
    assert not re.search(
        r'(src|href)="(?!data:)', page
    )  # nothing that a network would be needed for


def test_offenders_are_drawn_with_their_box(tmp_path):
    def outside(content, split):
        content['annotations'][0]['bbox'] = [80, 10, 9, -4]

    code, report = checked(coco_config(coco(tmp_path / 'data', outside)), '--phases', 'train')
    assert (code, kinds(report)) == (0, {'bbox-negative'})  # the host leaves it out
    (fault,) = report['datasets'][0]['faults']
    assert fault['first'][0]['image'] == f'{tmp_path}/data/train/1.png'
    assert fault['first'][0]['box'] == [80, 10, 9, -4]
    assert Path('out/report.html').read_text().count('data:image/jpeg') == 1


def test_a_config_that_does_not_fit_its_data(tmp_path, capsys):
    code, report = checked(coco_config(coco(tmp_path / 'data'), classes='red box'))
    assert code == 1
    assert kinds(report) == {'config'}
    assert "classes=('red box',)" in capsys.readouterr().out


def test_a_stopped_check_goes_on(tmp_path, monkeypatch):
    cfg = coco_config(coco(tmp_path / 'data'))
    checked(cfg)
    kept = tmp_path / 'out/files.jsonl'
    lines = kept.read_text().splitlines()
    kept.write_text('\n'.join([*lines[:3], lines[3][:40]]))  # killed while writing the fourth
    read = []
    monkeypatch.setattr(
        scanning, '_read', lambda job, _of=scanning._read: read.append(job) or _of(job)
    )
    code, report = checked(cfg)
    assert (code, len(read)) == (0, 3)
    Image.new('RGB', (96, 64)).save(tmp_path / 'data/train/1.png')
    checked(cfg)
    assert len(read) == 4  # that file has changed
    assert checked(cfg)[1]['datasets'] == report['datasets']


def test_masks(tmp_path, capsys):
    pytest.importorskip('mmseg')
    root = masks(tmp_path / 'data')
    code, report = checked(masks_config(root))
    assert (code, kinds(report)) == (0, set())
    train = report['datasets'][0]
    assert train['unit'] == 'pixels'
    assert sum(train['classes'].values()) == 4 * 64 * 96
    mask = root / 'masks/train/1.png'
    Image.open(mask).point(lambda n: 9 if n == 2 else n).save(mask)
    (root / 'masks/train/2.png').write_bytes(b'no mask')
    code, report = checked(masks_config(root))
    assert code == 1
    assert kinds(report) == {'mask-number', 'unreadable-mask'}
    assert f'{mask} holds the class number 9' in capsys.readouterr().out


def test_several_processes_find_the_same(tmp_path):
    root = coco(tmp_path / 'data')
    jobs = [scanning.Job(str(file), 'cv2') for file in sorted((root / 'train').iterdir())]
    one = scanning.scan(jobs, tmp_path / 'one.jsonl', 1)
    two = scanning.scan(jobs, tmp_path / 'two.jsonl', 2)
    files = [job.path for job in jobs]
    assert two.sizes(files) == one.sizes(files)
    assert [two.digest(file) for file in files] == [one.digest(file) for file in files]
