"""Images as the runtime prepares them: those of the hosts' own pipelines, pixel by pixel."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from helpers.images import textured
from paca_mm.deploy import images
from paca_mm.engine.config import load_config
from paca_mm.engine.predict import image_pipeline
from paca_mm.type_names import type_name

SIZES = [(60, 81), (301, 200), (128, 128)]


def steps_of(config):
    pipeline = image_pipeline(load_config(config))
    return [{**step, 'type': type_name(step)} for step in pipeline]


@pytest.mark.parametrize(
    ('config', 'host'),
    [('cls/paca_tiny_in1k', 'mmpretrain'), ('seg/paca_head_paca_tiny_ade20k', 'mmseg')],
)
@pytest.mark.parametrize('size', SIZES)
def test_pixels_are_the_hosts(config, host, size, tmp_path):
    pytest.importorskip(host)
    from mmcv.transforms import Compose
    from mmengine.registry import init_default_scope

    file = str(tmp_path / 'a.png')
    Image.fromarray(textured(*size)).save(file)
    cfg = load_config(f'configs/{config}.py')
    init_default_scope(cfg.default_scope)
    packed = Compose(image_pipeline(cfg))(dict(img_path=file, img_id=0))
    steps = steps_of(f'configs/{config}.py')
    assert images.lacking(steps) == ''
    found = images.prepared(images.decoded(file, steps), steps)
    np.testing.assert_array_equal(found[..., ::-1].transpose(2, 0, 1), packed['inputs'].numpy())


def test_without_opencv_a_pixel_is_one_level_off_at_most(monkeypatch):
    cv2 = pytest.importorskip('cv2')
    pixels = textured(60, 81)
    expected = cv2.resize(pixels, (123, 77), interpolation=cv2.INTER_LINEAR)
    monkeypatch.setattr(images, 'has', lambda name: name != 'cv2')
    found = images.resized(pixels, (123, 77))
    assert np.abs(found.astype(int) - expected).max() <= 1
    with pytest.raises(images.UserError, match='pip install opencv-python-headless'):
        images.resized(pixels, (12, 7), 'bicubic')


@pytest.mark.parametrize('corners', [False, True])
@pytest.mark.parametrize('size', [(20, 31), (5, 4), (9, 40), (9, 12)])
def test_bilinear_is_torchs(size, corners):
    x = torch.randn(2, 3, 9, 12)
    expected = F.interpolate(x, size, mode='bilinear', align_corners=corners)
    found = images.bilinear(x.numpy(), size, corners)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_a_step_that_the_runtime_lacks_is_named():
    assert images.lacking([dict(type='PackInputs'), dict(type='LoadImageFromFile')]) == ''
    assert images.lacking([dict(type='Rotate', angle=5)]) == 'the step Rotate'
    assert images.lacking([dict(type='CenterCrop', crop_size=5, auto_pad=True)]) == (
        'CenterCrop(auto_pad=...)'
    )


def test_importing_the_runtime_imports_nothing_heavy():
    """In this process torch is there already, so by its source: what the modules import at once."""
    import subprocess

    code = 'import sys, paca_mm.deploy; print("torch" in sys.modules, "mmengine" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'False']


def test_windows_are_the_hosts(monkeypatch):
    """The mean of overlapping windows, as mmseg's slide_inference takes it."""
    pytest.importorskip('mmseg')
    from mmseg.models import EncoderDecoder

    from paca_mm.deploy.meta import Meta
    from paca_mm.deploy.runtime import Exported

    weight = torch.randn(4, 3, 3, 3)

    def network(x):
        return F.conv2d(x, weight, padding=1)

    class Session:
        def get_inputs(self):
            return [type('Input', (), {'name': 'image'})]

        def run(self, _, feed):
            return [network(torch.from_numpy(feed['image'])).numpy()]

    x = torch.randn(1, 3, 45, 61)
    host = EncoderDecoder.__new__(EncoderDecoder)
    torch.nn.Module.__init__(host)
    host.test_cfg = type('Cfg', (), {'stride': (20, 24), 'crop_size': (32, 40)})
    host.out_channels = 4
    host.encode_decode = lambda inputs, metas: network(inputs)
    expected = host.slide_inference(x, [dict()])
    model = Exported.__new__(Exported)
    model.file, model.session = 'a.onnx', Session()
    model.meta = Meta('seg', 'logits', window=[32, 40, 20, 24])
    np.testing.assert_allclose(model._logits(x.numpy()), expected.numpy(), atol=1e-5)
