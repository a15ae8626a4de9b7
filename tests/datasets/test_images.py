"""Which images are accepted, found and refused: what Pillow and the loader read, and no less."""

import os
import re
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image, features

from paca_mm.datasets import images
from paca_mm.datasets.checks import check_masks
from paca_mm.datasets.glance import Glance
from paca_mm.datasets.images import broken_images, fault_of, find_images, loader_of
from paca_mm.datasets.labels import Labelling
from paca_mm.engine.data_checks import check_images
from paca_mm.engine.loading import NamesFile
from paca_mm.errors import UserError

PIXELS = np.random.RandomState(0).randint(0, 256, (48, 64, 3)).astype(np.uint8)
COLOUR = Image.fromarray(PIXELS)
GREY = COLOUR.convert('L')
DEEP = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 256)
TURNED = Image.Exif()
TURNED[0x0112] = 6

#: What is saved under which name, and how.
KINDS = {
    'a.jpg': (COLOUR, {}),
    'progressive.jpg': (COLOUR, {'progressive': True}),
    'turned.jpg': (COLOUR, {'exif': TURNED}),
    'cmyk.jpg': (COLOUR.convert('CMYK'), {}),
    'a.png': (COLOUR, {}),
    'palette.png': (COLOUR.convert('P'), {}),
    'deep.png': (DEEP, {}),
    'grey_alpha.png': (COLOUR.convert('LA'), {}),
    'a.bmp': (COLOUR, {}),
    'a.gif': (COLOUR, {}),
    'a.webp': (COLOUR, {}),
    'a.tif': (COLOUR, {}),
    'deep.tif': (DEEP, {}),
    'packed.tiff': (COLOUR, {'compression': 'tiff_lzw'}),
    'big.tif': (COLOUR, {'big_tiff': True}),
    'a.ppm': (COLOUR, {}),
    'a.pgm': (GREY, {}),
    'a.pbm': (COLOUR.convert('1'), {}),
    'a.jp2': (COLOUR, {}),
    'a.j2k': (COLOUR, {}),
    'a.tga': (COLOUR, {}),
    'a.avif': (COLOUR, {}),
}


@pytest.fixture(params=KINDS)
def file(request, tmp_path):
    """An image of each kind."""
    if request.param == 'a.avif' and not features.check('avif'):
        pytest.skip('this Pillow has no AVIF')
    image, how = KINDS[request.param]
    image.save(tmp_path / request.param, **how)
    return str(tmp_path / request.param)


def saved(path, image=COLOUR, behind=b'', without=0, **how):
    """An image file with something behind its end, or without its last bytes."""
    image.save(path, **how)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - without] + behind)
    return str(path)


def test_every_kind_is_accepted_that_its_loader_reads(file):
    assert file.lower().endswith(images.SUFFIXES)
    for decode in (False, True):
        assert fault_of(file, decode, loader='pillow') is None
        if cv2.imread(file) is not None:
            assert fault_of(file, decode) is None
        else:
            assert 'does not read: convert it, or set imdecode_backend' in fault_of(file, decode)


def test_what_opencv_alone_reads_is_accepted_for_it(tmp_path):
    path = tmp_path / 'reflectance.tif'
    file = str(path)
    cv2.imwrite(file, PIXELS.astype(np.float32))
    assert fault_of(file) is None
    assert fault_of(file, decode=True) is None
    assert 'is no image, or a damaged one' in fault_of(file, loader='pillow')
    path.write_bytes(path.read_bytes()[:5000])
    assert 'is no image, or a damaged one' in fault_of(file)


@pytest.mark.parametrize('kind', ['a.jpg', 'progressive.jpg', 'cmyk.jpg', 'a.png', 'a.jp2'])
def test_bytes_behind_the_end_are_no_fault(tmp_path, kind):
    image, how = KINDS[kind]
    motion = saved(tmp_path / kind, image, behind=bytes(50_000), **how)
    assert fault_of(motion) is None
    assert fault_of(motion, decode=True) is None


@pytest.mark.parametrize('without', [1, 2, 30, 1500])
@pytest.mark.parametrize('kind', ['a.jpg', 'progressive.jpg', 'cmyk.jpg', 'a.jp2', 'a.j2k'])
def test_a_torn_file_is_found_by_its_ends(tmp_path, kind, without):
    image, how = KINDS[kind]
    torn = saved(tmp_path / kind, image, without=without, **how)
    size = os.path.getsize(torn)
    assert fault_of(torn) == f'is torn ({size} bytes, its end mark is missing)'


def test_a_png_without_its_end_mark_is_what_its_loader_says(tmp_path):
    file = saved(tmp_path / 'a.png', without=12)  # IEND; the pixels are all there
    assert fault_of(file, loader='pillow') is None
    assert (fault_of(file) is None) == (cv2.imread(file) is not None)
    torn = saved(tmp_path / 'b.png', without=1500)
    assert 'is torn' in fault_of(torn)
    assert 'is torn' in fault_of(torn, loader='pillow')


@pytest.mark.parametrize('kind', ['a.bmp', 'a.tif', 'big.tif', 'a.ppm', 'a.pgm', 'a.webp'])
def test_a_torn_file_of_another_kind_is_found_by_decoding(tmp_path, kind):
    image, how = KINDS[kind]
    torn = saved(tmp_path / kind, image, without=1500, **how)
    assert 'is damaged' in fault_of(torn, decode=True)


@pytest.mark.parametrize(
    ('content', 'fault'),
    [
        (b'', 'is empty (0 bytes)'),
        (b'hello, I am a text', "is no image, or a damaged one (it starts with b'hello, I')"),
        (b'<!DOCTYPE html><html>', "is no image, or a damaged one (it starts with b'<!DOCTYP')"),
        (b'\xff\xd8\xff\xe0', 'is torn (4 bytes, its end mark is missing)'),
        (None, 'cannot be opened (No such file or directory)'),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, fault):
    file = tmp_path / 'x.jpg'
    if content is not None:
        file.write_bytes(content)
    assert fault_of(str(file)) == fault
    assert broken_images([str(file)]) == [f'{file} {fault}']


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    assert fault_of(str(tmp_path)) == 'is no regular file'
    assert fault_of(str(tmp_path / 'pipe.png')) == 'is no regular file'  # and nobody waits


def test_large_images_are_accepted_and_looked_at(tmp_path, monkeypatch):
    """Pillow warns of images of 89 million pixels and refuses twice as many."""
    whole = [saved(tmp_path / f'a.{kind}') for kind in ('jpg', 'png', 'tif', 'ppm', 'bmp')]
    whole += [saved(tmp_path / f'b.{kind}', behind=bytes(9999)) for kind in ('jpg', 'png')]
    torn = [saved(tmp_path / f'c.{kind}', without=1500) for kind in ('jpg', 'png')]
    for limit in (PIXELS.size // 3 - 1, 10):  # a warning, an error
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for decode in (False, True):
                assert broken_images(whole, decode=decode) == []
                assert all('is torn' in fault_of(file, decode) for file in torn)


def test_a_mask_of_a_large_image_is_compared_or_passed_over(tmp_path, monkeypatch):
    image, mask = saved(tmp_path / 'a.tif'), saved(tmp_path / 'a.png', GREY.point(lambda _: 1))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    assert [*check_masks([(image, mask)], Labelling(2), Glance(), every_class=False)] == []


def test_of_a_complete_file_only_the_ends_are_read(tmp_path, monkeypatch):
    files = [saved(tmp_path / name) for name in ('a.jpg', 'a.png', 'a.jp2')]
    for module, name in ((Image, 'open'), (images, 'JpegImageFile'), (cv2, 'imread')):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail('looked inside'))
    assert broken_images(files) == []


# What loads them -----------------------------------------------------------------------------------


class LoadImageFromFile:
    """Stands for mmcv's."""

    def __init__(self, backend):
        self.imdecode_backend = backend


class ReadSatellite:
    """A loader of the user's own."""

    __slots__ = ()


@pytest.mark.parametrize(
    ('steps', 'loader'),
    [
        ([{'type': 'LoadImageFromFile'}], 'cv2'),
        ([{'type': 'mmdet.LoadImageFromFile', 'imdecode_backend': 'pillow'}], 'pillow'),
        ([{'type': LoadImageFromFile, 'imdecode_backend': None}], 'cv2'),
        ([{'type': 'Flip'}, {'type': 'LoadImageFromFile', 'imdecode_backend': 'tifffile'}], 'tifffile'),
        ([LoadImageFromFile('pillow')], 'pillow'),
        ([ReadSatellite()], None),
        ([{'type': 'ReadSatellite'}, {'type': 'LoadAnnotations', 'imdecode_backend': 'cv2'}], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_loader_is_read_from_the_pipeline(steps, loader):
    assert loader_of(steps) == loader


def test_a_dataset_is_checked_with_its_own_loader(tmp_path):
    targa, text = saved(tmp_path / 'a.tga'), str(tmp_path / 'a.npy')
    with open(text, 'w') as f:
        f.write('numbers')
    pillow = {'pipeline': [{'type': 'LoadImageFromFile', 'imdecode_backend': 'pillow'}]}

    def faults(file, dataset):
        return [str(f) for f in check_images([file], dataset, 'train_dataloader.dataset', Glance())]

    assert faults(targa, pillow) == []
    assert faults(text, {'pipeline': [{'type': 'ReadSatellite'}]}) == []
    opencv = {'pipeline': [{'type': 'LoadImageFromFile'}]}
    (fault,) = faults(targa, opencv)
    assert 'images of train_dataloader cannot be read' in fault
    assert re.search(r'a\.tga is TGA, which OpenCV [\d.]+ does not read', fault)
    (fault,) = faults(text, opencv)
    assert 'is no image' in fault


def test_an_image_that_its_loader_reads_is_not_blamed_for_another_fault(tmp_path):
    class Pipeline:
        transforms = (LoadImageFromFile('pillow'),)

        def __call__(self, _):
            raise KeyError('gt_bboxes')

    with pytest.raises(KeyError, match='gt_bboxes'):
        NamesFile(Pipeline())({'img_path': saved(tmp_path / 'a.tga')})
    with pytest.raises(UserError, match=r'b\.tga is damaged'):
        NamesFile(Pipeline())({'img_path': saved(tmp_path / 'b.tga', without=1500)})


# Finding them --------------------------------------------------------------------------------------


def test_a_folder_is_searched_by_endings_and_hidden_files_are_left_out(tmp_path):
    for name in ('b.PPM', 'a.jpg', 'c.tar.avif', '._a.jpg', '.b.png', 'notes.txt', 'jpg'):
        (tmp_path / name).touch()
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'd.png').touch()
    found = [str(tmp_path / name) for name in ('a.jpg', 'b.PPM', 'c.tar.avif')]
    assert find_images(str(tmp_path)) == found
    assert find_images(str(tmp_path / 'notes.txt')) == [str(tmp_path / 'notes.txt')]
    assert find_images(str(tmp_path / '*.jpg')) == found[:1]
    assert find_images(str(tmp_path / '**' / 'd.*')) == [str(tmp_path / 'sub' / 'd.png')]


def test_a_home_folder_is_found_in_a_glob_too(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.jpg').touch()
    for what in ('~', '~/a.jpg', '~/*.jpg'):
        assert find_images(what) == [str(tmp_path / 'a.jpg')]


def test_nothing_found_says_what_to_name(tmp_path):
    (tmp_path / '._a.jpg').touch()
    with pytest.raises(UserError, match=r'no images in .*\n  to fix it: name an image, .*\.ppm'):
        find_images(str(tmp_path))
