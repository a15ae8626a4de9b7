"""The Python of the documents runs; the configs for data of one's own train."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
from mmengine.runner import Runner
from PIL import Image

from helpers.documents import DOCUMENTS, ROOT, blocks, name
from helpers.images import textured
from helpers.rows import MINI
from paca_mm.engine.config import load_config

PYTHON = [path for path in DOCUMENTS if blocks(path.read_text(), 'python')]


@pytest.mark.parametrize('path', PYTHON, ids=name)
def test_python_of_the_documents_is_python(path):
    for block in blocks(path.read_text(), 'python'):
        compile(block, name(path), 'exec')


@pytest.mark.slow
@pytest.mark.parametrize('page', ['quick-start', 'heads', 'own-images'])
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    pytest.importorskip('modelindex')
    Image.fromarray(textured(60, 80)).save(tmp_path / 'image.jpg')
    monkeypatch.chdir(tmp_path)
    found = blocks((ROOT / f'docs/{page}.md').read_text(), 'python')
    assert found
    for block in found:
        exec(block, {})


def test_the_first_block_of_heads_is_all_that_a_stock_config_needs(tmp_path):
    pytest.importorskip('mmdet')
    block = blocks((ROOT / 'docs/heads.md').read_text(), 'python')[0]
    text = f"_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n{block}"
    (tmp_path / 'mine.py').write_text(text)
    recipe = load_config('configs/det/recipes/retinanet_paca.py').model
    mine = load_config(str(tmp_path / 'mine.py')).model
    recipe.backbone.init_cfg = mine.backbone.init_cfg
    recipe.backbone.pop('drop_path_rate')  # 0.1, the default
    assert mine == recipe


def config_of(mark, folder, base):
    """The config behind ``<!-- run: MARK -->``, on data below ``folder``, small."""
    text = (ROOT / 'docs/own-detection.md').read_text().partition(f'<!-- run: {mark} -->')[2]
    block = blocks(text, 'python')[0]
    assert f"'./{base}'" in block
    block = block.replace(f"'./{base}'", repr(str(ROOT / 'configs/det' / base)))
    block = re.sub(r"'data/", f"'{folder}/data/", block)
    (folder / f'{mark}.py').write_text(block)
    cfg = load_config(str(folder / f'{mark}.py'))
    cfg.model.backbone.update(arch=MINI, num_clusters=(5, 5, 5, 0), init_cfg=None)
    cfg.model.neck.in_channels = list(MINI['embed_dims'])
    cfg.model.roi_head.bbox_head.fc_out_channels = 32
    for key in ('train', 'val', 'test'):
        loader = cfg[f'{key}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        resize = [dict(type='Resize', scale=(64, 64), keep_ratio=True)]
        steps = [
            x for x in loader.dataset.pipeline if 'Random' not in x.type and x.type != 'Resize'
        ]
        loader.dataset.pipeline = [*steps[:-1], *resize, steps[-1]]
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer)
    cfg.work_dir = str(folder / 'out')
    return cfg


def images_of(folder, splits):
    """Two images a split, each with one object: its name, split, and box."""
    for split, target in splits.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, label in enumerate(('dog', 'cat')):
            stem = f'{split}_{number}'
            Image.fromarray(textured(64, 64)).save(folder / target / f'{stem}.jpg')
            yield stem, split, label, (10, 12, 50, 44)


@pytest.mark.slow
def test_training_on_ones_own_coco_file_as_the_page_says(tmp_path):
    pytest.importorskip('mmdet')
    root = tmp_path / 'data/my_data'
    found = list(images_of(root, {'train': 'train', 'val': 'val'}))
    (root / 'annotations').mkdir()
    for split in ('train', 'val'):
        rows = [row for row in found if row[1] == split]
        content = dict(
            images=[
                dict(id=i, file_name=f'{row[0]}.jpg', height=64, width=64)
                for i, row in enumerate(rows)
            ],
            categories=[dict(id=7, name='cat'), dict(id=9, name='dog')],
            annotations=[
                dict(
                    id=i + 1, image_id=i, category_id={'cat': 7, 'dog': 9}[label], iscrowd=0,
                    bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1),
                    segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
                )
                for i, (_, _, label, (x1, y1, x2, y2)) in enumerate(rows)
            ],
        )  # fmt: skip
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    cfg = config_of('det', tmp_path, 'mask_rcnn_paca.py')
    runner = Runner.from_cfg(cfg)
    runner.train()
    dataset = runner.train_dataloader.dataset
    labels = [[i['bbox_label'] for i in dataset.get_data_info(k)['instances']] for k in range(2)]
    assert labels == [[1], [0]]
    assert 'val/coco/segm_mAP' in runner.message_hub.log_scalars
    assert (tmp_path / 'out/epoch_1.pth').is_file()


@pytest.mark.slow
def test_training_on_ones_own_xml_files_as_the_page_says(tmp_path):
    pytest.importorskip('mmdet')
    root = tmp_path / 'data/my_voc'
    (root / 'Annotations').mkdir(parents=True)
    for stem, split, label, box in images_of(root, dict.fromkeys(('train', 'val'), 'JPEGImages')):
        with open(root / f'{split}.txt', 'a') as f:
            f.write(f'{stem}\n')
        tree = ET.Element('annotation')
        size = ET.SubElement(tree, 'size')
        for key in ('width', 'height'):
            ET.SubElement(size, key).text = '64'
        thing = ET.SubElement(tree, 'object')
        ET.SubElement(thing, 'name').text = label
        ET.SubElement(thing, 'difficult').text = '0'
        bounds = ET.SubElement(thing, 'bndbox')
        for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True):
            ET.SubElement(bounds, key).text = str(value)
        ET.ElementTree(tree).write(root / f'Annotations/{stem}.xml')
    cfg = config_of('voc', tmp_path, 'recipes/faster_rcnn_paca.py')
    runner = Runner.from_cfg(cfg)
    runner.train()
    dataset = runner.train_dataloader.dataset
    labels = [[i['bbox_label'] for i in dataset.get_data_info(k)['instances']] for k in range(2)]
    assert labels == [[1], [0]]
    assert 'val/pascal_voc/mAP' in runner.message_hub.log_scalars
