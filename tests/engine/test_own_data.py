"""Data that people bring: what is sound goes through, what is not is told before the first step."""

import json
import shutil

import pytest
from PIL import Image

from helpers.own_data import CLASSES, coco, coco_config, masks, masks_config, voc

pytest.importorskip('mmdet')

from paca_mm.datasets import coco as coco_file
from paca_mm.engine.checks import check_config
from paca_mm.engine.config import load_config, use_shapes
from paca_mm.engine.tasks import TASKS
from paca_mm.errors import UserError


@pytest.fixture(autouse=True)
def _no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def message_of(cfg, phases=('train', 'val')):
    with pytest.raises(UserError) as caught:
        check_config(cfg, phases)
    return str(caught.value)


def each(change, where='annotations', split=None):
    """Spoils every entry of a list, of both files or one."""

    def spoil(content, of):
        if split in (None, of):
            for i, entry in enumerate(content[where]):
                change(entry, i)

    return spoil


def put(**values):
    return lambda entry, _: entry.update(values)


def drop(*keys):
    return lambda entry, _: [entry.pop(key) for key in keys]


# ---- COCO files: what stops a run


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (each(drop('segmentation')), 'has 8 annotations without segmentation'),
        (each(put(segmentation=None)), 'has 8 annotations without segmentation'),
        (each(put(segmentation=[])), 'has 8 annotations without segmentation'),
        (
            each(lambda a, i: i == 2 and a.pop('segmentation')),
            'has 1 annotation (of 8) without segmentation',
        ),
        (each(drop('area')), 'has 8 annotations without area'),
        (each(put(area='large')), 'area is no finite number'),
        (each(drop('bbox')), 'has 8 annotations without bbox'),
        (each(put(bbox=[1, 2, 3])), 'bbox is not four finite numbers'),
        (each(put(bbox=[1, float('nan'), 30, 30])), 'bbox is not four finite numbers'),
        (each(drop('id')), 'has 8 annotations without an id'),
        (each(put(id=5)), 'has 7 annotations (of 8) whose id another one has'),
        (each(drop('width', 'height'), 'images'), 'has 4 images without width and height'),
        (each(put(width=0), 'images'), 'width or height is no positive number'),
        (each(drop('file_name'), 'images'), 'has 4 images without file_name'),
        (each(put(id=1), 'images'), 'has 3 images whose id another one has'),
        (each(drop('iscrowd'), split='val'), 'has 4 annotations without iscrowd'),
        (
            each(put(segmentation=[[1, 2, 30, 40]]), split='val'),
            'has 4 annotations with a polygon of fewer than 3 points',
        ),
        (
            each(put(segmentation=[[1, 2, 30, 40, float('nan'), 9]])),
            'polygons are not lists of finite numbers',
        ),
        (
            each(put(segmentation=dict(size=[9, 9], counts=[81]))),
            'run-length code is not one of its image',
        ),
        (
            each(lambda a, _: a.update(category_id=str(a['category_id']))),
            'category_id is text where the category has a number',
        ),
        (
            each(lambda a, _: a.update(image_id=str(a['image_id']))),
            'image_id is text where the image has a number',
        ),
        (each(put(category_id=99), split='train'), 'no box that could be trained on'),
        (each(put(image_id=99), split='train'), 'no box that could be trained on'),
        (each(put(bbox=[1, 1, 20, -3]), split='train'), 'no box that could be trained on'),
        (each(put(name='red box'), 'categories'), 'has 1 category whose name another one has'),
        (each(put(id=3), 'categories'), 'has 1 category whose id another one has'),
        (each(lambda i, n: i.update(width=i['width'] * 2), 'images'), 'states another size than 4'),
        (each(put(file_name='gone.png'), 'images'), 'names images that are not there: 4 of 4'),
    ],
)
def test_a_fault_that_ruins_a_run_is_named_with_file_and_cure(tmp_path, spoil, message):
    root = coco(tmp_path / 'data', spoil)
    found = message_of(coco_config(root))
    assert message in found
    assert str(root) in found
    assert 'to fix it: ' in found


def test_offenders_are_named_with_their_image(tmp_path):
    root = coco(tmp_path / 'data', each(put(bbox=[1, 2, 3])))
    assert 'first: annotation 2 (1.png): bbox=[1, 2, 3]; annotation 3 (1.png)' in (
        message_of(coco_config(root))
    )
    assert '... 3 more' in message_of(coco_config(root))


def test_names_that_repeat_the_folder(tmp_path):
    spoil = each(
        lambda image, _: image.update(file_name=f'train/{image["file_name"]}'), 'images', 'train'
    )
    found = message_of(coco_config(coco(tmp_path / 'data', spoil)))
    assert "begin with 'train' themselves: leave it out of data_prefix" in found


# ---- COCO files: what a run goes on with


@pytest.mark.parametrize(
    ('spoil', 'warning'),
    [
        (each(put(iscrowd=1), split='train'), None),
        (each(drop('iscrowd'), split='train'), None),
        (each(lambda a, _: a.update(category_id=float(a['category_id']))), None),
        (
            each(lambda a, i: i < 2 and a.update(category_id=99)),
            'of categories that it does not list',
        ),
        (each(lambda a, i: i < 2 and a.update(image_id=99)), 'of images that it does not list'),
        (each(lambda a, i: i < 2 and a.update(bbox=[500, 500, 9, 9])), 'lies outside the image'),
        (each(lambda a, i: i < 2 and a.update(bbox=[5, 5, 0.5, 9])), 'less than a pixel wide'),
        (each(lambda a, i: i < 2 and a.update(bbox=[5, 5, -4, 9])), 'negative width or height'),
        (each(lambda a, i: i < 2 and a.update(area=0)), 'whose area is 0 or less'),
        (
            each(lambda a, i: i < 2 and a.update(segmentation=[[1, 2, 3, 4]]), split='train'),
            'has 2 annotations (of 8) with a polygon of fewer than 3 points (left out in training)',
        ),
        (lambda content, _: content['annotations'].clear() if _ == 'val' else None, None),
    ],
)
def test_what_the_host_leaves_out_is_told_and_no_error(tmp_path, capsys, spoil, warning):
    check_config(coco_config(coco(tmp_path / 'data', spoil)), ['train'])
    said = capsys.readouterr().out
    assert (f'warning: {tmp_path}' in said) == (warning is not None)
    assert (warning or '') in said


def test_run_length_codes_are_masks(tmp_path):
    def encode(content, _):
        for ann in content['annotations']:
            image = content['images'][ann['image_id'] - 1]
            pixels = image['width'] * image['height']
            ann['segmentation'] = dict(
                size=[image['height'], image['width']], counts=[10, 20, pixels - 30]
            )

    check_config(coco_config(coco(tmp_path / 'data', encode)), ['train', 'val'])


def test_images_that_exif_turns_are_told_of(tmp_path, capsys):
    root = coco(tmp_path / 'data')
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (root / 'train').iterdir():
        Image.open(file).save(file, exif=exif)
    check_config(coco_config(root), ['train'])
    assert 'states the size of 4 of the 4 images before their EXIF tag turns them' in (
        capsys.readouterr().out
    )


def test_keys_are_asked_for_only_where_they_are_used(tmp_path):
    """A box detector needs no masks; a file that is not evaluated needs no iscrowd."""
    root = coco(tmp_path / 'data', each(drop('segmentation', 'iscrowd')))
    cfg = coco_config(root)
    for step in cfg.train_dataloader.dataset.pipeline:
        step.pop('with_mask', None)
    cfg.val_evaluator = cfg.test_evaluator = dict(type='CocoMetric', metric='bbox', format_only=True,
                                                  outfile_prefix='x')  # fmt: skip
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        for step in loader.dataset.pipeline:
            step.pop('with_mask', None)
    check_config(cfg, ['train', 'val'])


def test_absent_images_without_objects_are_left_out_of_a_training(tmp_path):
    def empty(content, split):
        if split == 'train':
            content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 1]

    root = coco(tmp_path / 'data', empty)
    (root / 'train/1.png').unlink()
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=8)
    check_config(cfg, ['train'])
    cfg.train_dataloader.dataset.filter_cfg = None
    assert 'names images that are not there: 1 of 4' in message_of(cfg)


# ---- a file is looked into once


def test_what_was_found_in_a_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    root = coco(tmp_path / 'data')
    first = coco_file.look_into(str(root / 'val.json'))
    with monkeypatch.context() as patch:
        patch.setattr(coco_file, '_look', lambda path: pytest.fail('read again'))
        assert coco_file.look_into(str(root / 'val.json')) == first
    content = json.loads((root / 'val.json').read_text())
    content['annotations'][0]['area'] = 0
    (root / 'val.json').write_text(json.dumps(content))
    assert coco_file.look_into(str(root / 'val.json')).tally.counts == {'area-zero': 1}


def test_a_cache_that_cannot_be_used_costs_time_only(tmp_path, monkeypatch):
    root = coco(tmp_path / 'data')
    (tmp_path / 'blocked').write_text('no folder')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'blocked'))
    assert coco_file.look_into(str(root / 'val.json')).annotations == 4
    assert coco_file.look_into(str(root / 'val.json')).annotations == 4


# ---- classes


def test_one_class_as_a_text(tmp_path):
    cfg = coco_config(coco(tmp_path / 'data'), classes='red box')
    found = message_of(cfg)
    assert "classes='red box', which is a text" in found
    assert "classes=('red box',)" in found


def test_classes_in_a_file_may_have_blanks(tmp_path):
    (tmp_path / 'classes.txt').write_text('red box\nblue disc\n')
    check_config(coco_config(coco(tmp_path / 'data'), str(tmp_path / 'classes.txt')), ['train'])


def test_classes_in_another_order_than_the_file(tmp_path):
    found = message_of(coco_config(coco(tmp_path / 'data'), classes=CLASSES[::-1]))
    assert "'red box' would be called 'blue disc'" in found
    assert "classes=('red box', 'blue disc')" in found


def test_the_validation_file_has_another_order(tmp_path):
    root = coco(tmp_path / 'data', lambda c, split: split == 'val' and c['categories'].reverse())
    assert 'val.json lists its classes in the order blue disc, red box' in (
        message_of(coco_config(root))
    )


def test_the_evaluator_has_a_file_of_its_own(tmp_path):
    root = coco(tmp_path / 'data')
    other = coco(tmp_path / 'other', lambda content, split: content['categories'].reverse())
    cfg = coco_config(root)
    cfg.val_evaluator.ann_file = str(other / 'val.json')
    assert f'{other}/val.json lists its classes in the order' in message_of(cfg)


def test_the_evaluators_file_is_missing(tmp_path):
    cfg = coco_config(coco(tmp_path / 'data'))
    cfg.val_evaluator.ann_file = str(tmp_path / 'data/vall.json')
    found = message_of(cfg)
    assert f'the annotation file of val_evaluator is missing.\n  looked for: {tmp_path}' in found
    assert 'holds: train, train.json, val, val.json' in found
    assert 'to fix it: correct val_evaluator.ann_file.' in found


def test_some_classes_of_a_file_are_enough(tmp_path):
    cfg = coco_config(coco(tmp_path / 'data'), classes=('blue disc',))
    check_config(cfg, ['train', 'val'])


# ---- heads


def test_heads_that_count_other_things(tmp_path):
    """The RPN tells objects from background, a semantic head labels stuff."""
    cfg = coco_config(coco(tmp_path / 'data'))
    cfg.model.rpn_head.num_classes = 1
    cfg.model.roi_head.semantic_head = dict(type='FusedSemanticHead', num_classes=183)
    check_config(cfg, ['train'])
    heads = {head.place for head in TASKS['det'].heads(cfg.model)}
    assert heads == {'roi_head.bbox_head', 'roi_head.mask_head'}


def test_the_embedded_dataset_leaves_them_alone():
    cfg = load_config('configs/det/mask_rcnn_paca.py')
    cfg.model.rpn_head.num_classes = 1
    use_shapes(cfg)
    assert cfg.model.rpn_head.num_classes == 1
    assert cfg.model.roi_head.mask_head.num_classes == 6


# ---- other datasets


def test_xml_files(tmp_path):
    root = voc(tmp_path / 'voc', coco(tmp_path / 'coco'))
    cfg = coco_config(root)
    for phase, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        cfg[f'{phase}_dataloader'].dataset.update(
            type='VOCDataset',
            ann_file=f'VOC2007/ImageSets/Main/{split}.txt',
        )
        cfg[f'{phase}_dataloader'].dataset.data_prefix = dict(sub_data_root='VOC2007/')
    cfg.val_evaluator = cfg.test_evaluator = dict(type='VOCMetric', metric='mAP')
    check_config(cfg, ['train', 'val', 'test'])
    cfg.train_dataloader.dataset.metainfo = dict(classes=('cat', 'dog'))
    assert 'no object of the classes cat, dog' in message_of(cfg)
    cfg.train_dataloader.dataset.metainfo = dict(classes=CLASSES)
    (root / 'VOC2007/JPEGImages/train2.jpg').unlink()
    assert 'names images that are not there: 1 of 4' in message_of(cfg)
    shutil.rmtree(root / 'VOC2007/Annotations')
    assert 'is not what VOCDataset reads' in message_of(cfg)


def test_json_of_openmmlab(tmp_path):
    root = coco(tmp_path / 'data')
    content = json.loads((root / 'train.json').read_text())
    instances = [dict(bbox=[1, 1, 20, 20], bbox_label=k, ignore_flag=0) for k in (0, 1)]
    data_list = [
        dict(img_path=i['file_name'], width=i['width'], height=i['height'], instances=instances)
        for i in content['images']
    ]
    (root / 'own.json').write_text(
        json.dumps(dict(metainfo=dict(classes=CLASSES), data_list=data_list))
    )
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.update(type='BaseDetDataset', ann_file='own.json')
    cfg.train_dataloader.dataset.data_prefix = dict(img_path='train')
    check_config(cfg, ['train'])
    instances[0]['bbox_label'] = 2
    (root / 'own.json').write_text(
        json.dumps(dict(metainfo=dict(classes=CLASSES), data_list=data_list))
    )
    assert 'has objects with the labels 1 to 2, but there are 2 classes' in message_of(cfg)


def test_what_is_no_coco_file_is_not_parsed_as_one(tmp_path):
    """Only the paths of a dataset that nobody here can read are looked at."""
    root = coco(tmp_path / 'data')
    (root / 'train.odgt').write_text('{"ID": "1"}\n')
    (root / 'id_hw.json').write_text('{}')
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.update(type='CrowdHumanDataset', ann_file='train.odgt')
    cfg.train_dataloader.dataset.metainfo = dict(classes=CLASSES)
    check_config(cfg, ['train'])
    cfg.train_dataloader.dataset.ann_file = 'gone.odgt'
    assert 'the annotation file of train_dataloader is missing' in message_of(cfg)


# ---- segmentation


@pytest.mark.parametrize('ending', ['JPG', 'jpeg'])
def test_images_with_another_ending_are_told_of(tmp_path, capsys, ending):
    """mmseg leaves them out in silence."""
    pytest.importorskip('mmseg')
    root = masks(tmp_path / 'data', 6, lambda i: f'{i}.{ending if i % 2 else "jpg"}')
    check_config(masks_config(root), ['train'])
    said = capsys.readouterr().out
    assert f'has 3 images ending in .{ending}, which train_dataloader leaves out' in said
    assert "the 3 that end in '.jpg'" in said


def test_masks_beside_their_images_are_not_overlooked_images(tmp_path, capsys):
    pytest.importorskip('mmseg')
    root = masks(tmp_path / 'data')
    for mask in (root / 'masks/train').iterdir():
        mask.rename(root / 'train' / mask.name)
    cfg = masks_config(root)
    cfg.train_dataloader.dataset.data_prefix = dict(img_path='train', seg_map_path='train')
    check_config(cfg, ['train'])
    assert 'warning' not in capsys.readouterr().out


def repaint(root, number):
    import numpy as np

    for mask in (root / 'masks').rglob('*.png'):
        pixels = np.array(Image.open(mask))
        pixels[:4] = number
        Image.fromarray(pixels).save(mask)


def test_no_label_has_a_number_of_the_datasets_own(tmp_path):
    pytest.importorskip('mmseg')
    root = masks(tmp_path / 'data')
    repaint(root, 254)
    own = {f'{phase}_dataloader.dataset.ignore_index': 254 for phase in ('train', 'val', 'test')}
    found = message_of(masks_config(root, **own))
    assert (
        'PaCaHead of the config has ignore_index=255, but the dataset of train_dataloader' in found
    )

    own['model.decode_head.ignore_index'] = 254
    assert 'IoUMetric of the config has ignore_index=255' in message_of(masks_config(root, **own))
    own |= {'val_evaluator.ignore_index': 254, 'test_evaluator.ignore_index': 254}
    cfg = masks_config(root, **own)
    check_config(cfg, ['train', 'val', 'test'])
    (step,) = (s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'paca_mm.CheckLabels')
    assert (step.num_classes, step.ignore_index) == (3, 254)


@pytest.mark.parametrize('absent', ['image', 'mask', 'list'])
def test_a_list_of_images_names_what_is_not_there(tmp_path, absent):
    pytest.importorskip('mmseg')
    root = masks(tmp_path / 'data')
    (root / 'list.txt').write_text('0\n1\n2\n')
    cfg = masks_config(root, **{'train_dataloader.dataset.ann_file': 'list.txt'})
    check_config(cfg, ['train'])
    file = {'image': 'train/1.jpg', 'mask': 'masks/train/1.png', 'list': 'list.txt'}[absent]
    (root / file).unlink()
    expected = {
        'image': f'{root}/list.txt names images that are not there: 1 of 3',
        'mask': f'{root}/list.txt names masks that are not there: 1 of 3',
        'list': 'the list of images of train_dataloader is missing',
    }
    assert expected[absent] in message_of(cfg)


def test_images_of_unlike_sizes_are_no_batch_in_validation(tmp_path):
    pytest.importorskip('mmseg')
    root = masks(tmp_path / 'data')
    for folder in ('val', 'masks/val'):
        file = next((root / folder).glob('1.*'))
        Image.open(file).crop((0, 0, 90, 61)).save(file)
    cfg = masks_config(root)
    found = message_of(cfg)
    assert 'val_dataloader has batch_size=2, but its images do not have one size' in found
    assert '90 x 61' in found
    cfg.val_dataloader.batch_size = 1
    check_config(cfg, ['val'])
    cfg.val_dataloader.batch_size = 2
    cfg.val_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(64, 64)))
    check_config(cfg, ['val'])


def test_an_auxiliary_head_with_labels_of_its_own():
    """STDC's head makes boundaries of the labels; an FCNHead learns the labels."""
    pytest.importorskip('mmseg.models')
    seg = TASKS['seg']
    model = dict(
        decode_head=dict(type='FCNHead', num_classes=3),
        auxiliary_head=[
            dict(type='STDCHead', num_classes=2),
            dict(type='FCNHead', num_classes=3),
        ],
    )
    assert [head.place for head in seg.heads(model)] == ['decode_head', 'auxiliary_head.1']


def test_a_palette_of_other_classes(tmp_path):
    """Classes of one's own over a config whose classes have colours."""
    pytest.importorskip('mmseg')
    cfg = masks_config(masks(tmp_path / 'data'))
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.metainfo.palette = [[1, 2, 3]]
    found = message_of(cfg)
    assert 'has 3 classes (ground, box, disc) and a palette of 1 colours' in found
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.metainfo.palette = []
    check_config(cfg, ['train', 'val', 'test'])


# ---- a file that cannot be read while training


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 1])
def test_a_file_that_turns_out_damaged_is_replaced(tmp_path, monkeypatch, workers):
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    from paca_mm.engine.loading import skipping_files

    root = coco(tmp_path / 'data')
    content = (root / 'train/2.png').read_bytes()
    (root / 'train/2.png').write_bytes(content[:60] + bytes(40) + content[100:])
    init_default_scope('mmdet')
    loader = dict(coco_config(root).train_dataloader, num_workers=workers)
    loader['sampler'] = dict(type='DefaultSampler', shuffle=False)
    loader.pop('batch_sampler', None)
    built = Runner.build_dataloader(loader, seed=0)
    skipped = skipping_files(built)
    assert sum(len(batch['inputs']) for batch in built) == 4
    assert sum(len(batch['inputs']) for batch in built) == 4  # the same file counts once
    (line,) = skipped()
    assert line.startswith(f'{root}/train/2.png is damaged')

    skipped.most = 0
    with pytest.raises(UserError, match='1 files cannot be read, and max_skipped=0'):
        list(built)
