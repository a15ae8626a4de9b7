"""Models as folders: out, back in with the same numbers, and nothing in a folder is run."""

import json
import re
import sys
import types

import pytest
import torch
from mmengine.config import Config

from helpers import golden
from helpers.rows import MINI, mini
from helpers.tiny import tiny
from paca_mm import hub
from paca_mm.analysis.build import build
from paca_mm.analysis.toy_inputs import forward
from paca_mm.checkpoint import read_checkpoint
from paca_mm.engine.config import configs, load_config
from paca_mm.engine.walk import leave_weights_out, type_name, walk
from paca_mm.errors import UserError
from paca_mm.families import families
from paca_mm.hub.folder import _plain

pytest.importorskip('safetensors')
BACKBONE = dict(type='paca_mm.PaCaViT', arch=MINI, num_clusters=(7, 5, 3, 0))
HOSTS = {'cls': 'mmpretrain', 'seg': 'mmseg', 'det': 'mmdet'}


def edited(folder, change):
    """Let somebody write something else into a folder's config.json."""
    file = folder / 'config.json'
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    return hub.save(tmp_path / 'model', BACKBONE, mini('conv'))


def test_a_backbone_goes_out_and_comes_back_in(folder):
    assert sorted(f.name for f in folder.iterdir()) == [
        'README.md',
        'config.json',
        'model.safetensors',
    ]
    model, expected, image = hub.load(folder), mini('conv'), golden.image(2, 48, 64)
    assert not model.training
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(image), expected(image), strict=True))
    model.init_weights()  # a Runner's call: they stay
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    described = json.loads((folder / 'config.json').read_text())
    assert described['library_name'] == 'paca_mm'
    assert described['task'] == 'backbone'
    assert read_checkpoint(folder / 'model.safetensors')['meta']['task'] == 'backbone'


@pytest.mark.parametrize('name', [n for n, f in families().items() if f.backbone and f.toy])
def test_the_backbone_of_every_family(name, tmp_path):
    family = families()[name]
    settings = dict(type=f'paca_mm.{family.backbone}', **family.toy)
    from mmengine.registry import MODELS

    model = golden.fill(MODELS.build(dict(settings))).eval()
    found = hub.load(hub.save(tmp_path / name, settings, model))
    with torch.no_grad():
        a, b = (m(golden.image(1, 64, 64)) for m in (model, found))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize('task', HOSTS)
def test_a_model_of_every_host(task, tmp_path):
    pytest.importorskip(HOSTS[task])
    cfg = tiny(task, tmp_path / 'tiny.py')
    model = build(cfg).eval()
    torch.save(
        dict(
            state_dict=model.state_dict(), meta=dict(iter=7, dataset_meta=dict(classes=('x', 'y')))
        ),
        tmp_path / 'a.pth',
    )
    found = hub.load(hub.save(tmp_path / 'm', cfg, tmp_path / 'a.pth', metrics={'top1': 12.5}))
    assert type(found) is type(model)
    assert found.dataset_meta['classes'] == ('x', 'y')
    outputs = []
    for each in (model, found):
        torch.manual_seed(0)  # of the image
        outputs.append([*_tensors(forward(each, task, 64, 64))])
    assert outputs[0]
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    text = (tmp_path / 'm/README.md').read_text()
    assert '| top1 | 12.5 |' in text
    assert '| trained | iter 7 |' in text
    assert 'RGB, values 0 to 255' in text


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def test_the_backbone_of_a_config_alone(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = tiny('cls', tmp_path / 'tiny.py')
    model = build(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    found = hub.load(hub.save(tmp_path / 'm', cfg, tmp_path / 'a.pth', part='backbone'))
    assert found.state_dict().keys() == model.backbone.state_dict().keys()


def test_the_card_of_a_published_row(tmp_path):
    settings = dict(type='paca_mm.PaCaViT', arch='tiny')
    model = golden.fill(hub.folder.MODELS.build(dict(settings)))
    file = tmp_path / 'IMNET_224_pacavit_tiny_p2cconv_100_0.pth'
    torch.save(model.state_dict(), file)
    folder = hub.save(tmp_path / 'm', settings, file, name='paca_tiny_in1k')
    text = (folder / 'README.md').read_text()
    assert 'license: "mit"' in text  # the file is called as the authors'
    assert '| published row | tiny |' in text
    assert '| parameters | 11.82 M |' in text
    assert 'No results of these weights are stated.' in text
    assert 'Published for paca_tiny_in1k by its authors' in text
    assert 'arxiv.org/abs/2203.11987' in text
    text = (hub.save(tmp_path / 'n', settings, model) / 'README.md').read_text()
    assert 'license' not in text  # nobody says whose they are
    assert 'Published for' not in text
    assert text.startswith(
        '---\nlibrary_name: "paca_mm"\npipeline_tag: "image-feature-extraction"\n'
    )


@pytest.mark.slow
def test_every_config_is_made_of_known_parts_and_no_part_is_known_in_vain():
    named = set()
    for path in configs():
        model = load_config(str(path)).get('model')
        if not model:
            continue
        settings = _plain(model)
        leave_weights_out(settings)
        hub.check_parts(settings, path.name)
        named |= {type_name(node) for node in walk(settings) if 'type' in node}
    assert hub.PARTS - named <= {'soft_nms', 'GELU', 'LN'}


@pytest.mark.parametrize(
    'change',
    [
        lambda c: c['model'].update(type='os.system', command='touch ran'),
        lambda c: c['model'].update(type='subprocess.check_output', args=['touch', 'ran']),
        lambda c: c['model'].update(type='ran.Model'),
        lambda c: c['model'].update(type='paca_mm.ran'),
        lambda c: c['model'].update(type=['paca_mm.PaCaViT']),
        lambda c: c['model'].update(plain_attention=dict(type='ran.Model')),
        lambda c: c['model'].update(nms=dict(type="__import__('os').system('touch ran')")),
        lambda c: c['model'].update(type='mmpretrain.HuggingFaceClassifier', model_name='x'),
        lambda c: c['model'].update(type='mmseg.VPD'),
        lambda c: c['model'].update(_scope_='ran'),
    ],
)
def test_nothing_in_a_folder_is_run(folder, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for file in ('ran.py', 'registry.py'):
        (tmp_path / file).write_text("open('ran', 'w')\n")
    edited(folder, change)
    with pytest.raises(UserError, match=r'config\.json is not built|names no type for its model'):
        hub.load(folder)
    assert not (tmp_path / 'ran').exists()
    assert 'ran' not in sys.modules


@pytest.mark.parametrize('text', ['weights.pkl', '/etc/passwd', 'https://x/y', 'hf-hub:a', 'a\\b'])
def test_a_model_out_of_a_file_reads_no_other(folder, text):
    edited(folder, lambda c: c['model'].update(loss=dict(class_weight=text)))
    with pytest.raises(UserError, match=r'its loss\.class_weight is .*, which names a file'):
        hub.load(folder)


def test_weights_that_a_folder_names_are_not_fetched(folder):
    edited(folder, lambda c: c['model'].update(init_cfg=None))
    hub.load(folder)
    edited(folder, lambda c: c['model'].update(init_cfg=dict(type='Pretrained', checkpoint='a')))
    with pytest.raises(UserError, match=r"init_cfg\.type is 'Pretrained'"):
        hub.load(folder)


def test_a_part_that_the_caller_trusts(folder):
    edited(folder, lambda c: c['model'].update(type='torch.nn.Identity'))
    with pytest.raises(UserError, match=r"allow=\['torch\.nn\.Identity'\]"):
        hub.load(folder)
    with pytest.raises(UserError, match='is not for this model'):
        hub.load(folder, allow=['torch.nn.Identity'])  # built, and the weights are not its


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda f: (f / 'config.json').unlink(), r'has no config\.json'),
        (lambda f: (f / 'config.json').write_text('{'), r'cannot be read as JSON'),
        (lambda f: (f / 'config.json').write_text('[' * 100_000), r'cannot be read as JSON'),
        (
            lambda f: (f / 'config.json').write_text('{"model_type": "bert"}'),
            r'is of another library',
        ),
        (lambda f: edited(f, lambda c: c.update(format=2)), r'has format 2; this paca_mm'),
        (lambda f: edited(f, lambda c: c.update(default_scope='evil')), r"default_scope='evil'"),
        (lambda f: edited(f, lambda c: c['model'].update(arch='tiny')), r'is not for this model'),
        (lambda f: edited(f, lambda c: c['model'].update(archh='x')), r'archh'),
        (
            lambda f: (f / 'model.safetensors').unlink(),
            r'there is no checkpoint .*model\.safetensors',
        ),
        (lambda f: (f / 'model.safetensors').write_bytes(b'x' * 99), r'torn or no safetensors'),
    ],
)
def test_damaged_folders_are_one_message(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        hub.load(folder)


def test_wrong_calls_are_one_message(folder, tmp_path):
    with pytest.raises(UserError, match=r'has a config\.json already; force=True'):
        hub.save(folder, BACKBONE, mini('conv'))
    assert hub.save(folder, BACKBONE, mini('conv'), force=True) == folder
    with pytest.raises(UserError, match='is no backbone of this suite'):
        hub.save(tmp_path / 'x', dict(type='ResNet', depth=18), mini('conv'))
    with pytest.raises(UserError, match='has no model to save'):
        hub.save(tmp_path / 'x', Config(dict(a=1)), mini('conv'))
    with pytest.raises(UserError, match="must be 'model' or 'backbone'"):
        hub.save(tmp_path / 'x', BACKBONE, mini('conv'), part='head')
    with pytest.raises(UserError, match='is not for this model'):
        hub.save(tmp_path / 'x', {**BACKBONE, 'num_clusters': (7, 5, 4, 0)}, mini('conv'))
    torch.save(mini('conv').state_dict(), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='does not fill the backbone'):
        hub.save(tmp_path / 'x', {**BACKBONE, 'num_clusters': (7, 5, 4, 0)}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='cannot be written'):
        hub.save(tmp_path / 'a.pth/x', BACKBONE, mini('conv'))
    assert not (tmp_path / 'x').exists()
    with pytest.raises(UserError, match=r'there is no folder .* no name on the hub'):
        hub.load(tmp_path / 'nowhere')


def test_the_hub_itself_is_asked_only_for_names(folder, monkeypatch):
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        if name == 'user/gone':
            raise OSError('404')
        return str(folder)

    stand_in = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', stand_in)
    assert hub.load('user/model', revision='v1').num_clusters == (7, 5, 3, 0)
    only = dict(revision='v1', allow_patterns=['config.json', 'model.safetensors'])
    assert asked == [('user/model', only)]
    with pytest.raises(
        UserError, match=r'cannot be fetched from the HuggingFace hub \(OSError: 404\)'
    ):
        hub.load('user/gone')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match='pip install huggingface_hub'):
        hub.load('user/model')


def test_the_layout_is_what_the_hub_expects(folder):
    """The files that huggingface_hub's own mixin writes, by the names that it has for them."""
    constants = pytest.importorskip('huggingface_hub.constants')
    names = {constants.CONFIG_NAME, constants.SAFETENSORS_SINGLE_FILE, 'README.md'}
    assert {f.name for f in folder.iterdir()} == names
    card = pytest.importorskip('huggingface_hub').ModelCard.load(folder / 'README.md')
    assert card.data.library_name == 'paca_mm'
    assert card.data.pipeline_tag == 'image-feature-extraction'
    assert re.match('# model', card.text.strip())
