"""The catalogue of published models: figures, addresses, tables, and the names in other zoos."""

import dataclasses
import doctest
import importlib
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from helpers import closed_form, golden
from helpers.rows import ROWS
from helpers.tool import script
from paca_mm import zoo
from paca_mm.analysis import recount
from paca_mm.engine.tasks import TASKS as TASK_OF
from paca_mm.errors import UserError
from paca_mm.models import PaCaViT
from paca_mm.paths import assets_root
from paca_mm.zoo import metafiles

#: PaCa's metafiles; a family's own are found as `<task>/<family>`.
TASKS = ('cls', 'det', 'seg')

readme_tables = script('dev/readme_tables.py')

#: What the specification counted for a 224 x 224 classifier, in 10^9 MACs.
SPECIFIED_GMACS = {
    'tiny': 3.219,
    'small': 5.501,
    'base': 9.537,
    'small_mlp': 5.864,
    'small_teacher': 5.482,
    'base_teacher': 9.771,
    'tiny_teacher': 3.424,
    'small_c2': 4.640,
    'small_c49': 5.053,
    'small_c49_100': 5.273,
    'small_c100_49': 5.336,
    'small_c100': 5.568,
    'small_c100_blockwise': 6.103,
}


def in_scope(task):
    pytest.importorskip({'cls': 'mmpretrain', 'det': 'mmdet', 'seg': 'mmseg'}[task])


def test_the_rows_are_those_of_the_tests():
    assert list(zoo.ROWS) == list(ROWS)
    for row, entry in zoo.ROWS.items():
        assert {'arch': 'small', **ROWS[row][0]} == entry.backbone


@pytest.mark.slow
def test_every_row_is_recognised_by_what_it_is_made_of():
    from paca_mm.models.paca.keys import LAYOUT

    for row in ROWS:
        with torch.device('meta'):
            state = PaCaViT(**ROWS[row][0]).state_dict()
        assert LAYOUT.rows(LAYOUT.settings(state)) == (row,)


# ---- the metafiles


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.slow
def test_metafile_is_right(task):
    """Every config is built and counted; addresses are those of the rows."""
    in_scope(task)
    assert list(recount.problems_of(task, macs=False)) == []  # MACs: below, in closed form


@pytest.mark.parametrize('task', TASKS)
def test_readme_table_is_made_from_the_metafile(task):
    assert readme_tables.readme_is_current(task)


@pytest.mark.parametrize('row', ROWS)
def test_closed_form_agrees_with_the_specification(row):
    macs = closed_form.classifier_macs(**zoo.ROWS[row].backbone)
    assert round(macs / 1e9, 3) == SPECIFIED_GMACS[row]


@pytest.mark.parametrize('task', TASKS)
def test_macs_of_the_metafile(task):
    for entry in metafiles.read_metafile(task):
        backbone = dict(zoo.ROWS[entry.metadata['Row']].backbone)
        if task == 'cls':
            assert entry.metadata['FLOPs'] == closed_form.classifier_macs(**backbone)
            published = entry.metadata.get('Published FLOPs (G)', entry.metadata['FLOPs'] / 1e9)
            assert entry.metadata['FLOPs'] / 1e9 == pytest.approx(published, abs=0.1)
            continue
        if task == 'seg':
            last = 100 if 'teacher' in backbone['arch'] else 0
            clusters = backbone.get('num_clusters', (100, 100, 100, last))
            backbone['num_clusters'] = tuple(200 if m else 0 for m in clusters)
        expected = closed_form.backbone_macs(*TASK_OF[task].image_size, **backbone)
        assert entry.metadata['Backbone MACs'] == expected


@pytest.mark.parametrize('row', ['tiny', 'small_c100_blockwise', 'base_teacher'])
@pytest.mark.slow
def test_macs_that_are_counted_agree_with_the_closed_form(row):
    """What ``check_metafiles.py`` counts as the model runs, and ``get_flops.py`` with it."""
    in_scope('cls')
    cfg = Config.fromfile(assets_root() / zoo.config_name('cls', row))
    expected = closed_form.classifier_macs(200, **zoo.ROWS[row].backbone)
    assert recount.count_macs(cfg, 200, 200) == expected


def test_published_rows_have_results_and_weights():
    for task in TASKS:
        for entry in metafiles.read_metafile(task):
            assert bool(entry.weights) == bool(entry.metrics) == ('tiny_teacher' not in entry.name)


@pytest.mark.parametrize('task', TASKS)
def test_configs_say_what_was_published(task):
    names = {'Top 1 Accuracy': 'top-1', 'box AP': 'box AP', 'mask AP': 'mask AP', 'mIoU': 'mIoU'}
    for entry in metafiles.read_metafile(task):
        said = (assets_root() / entry.config).read_text().partition('_base_ =')[0]
        published = {names[k]: v for k, v in entry.metrics.items() if k in names}
        found = re.findall(rf'({"|".join(names.values())}) (\d+\.\d+)', said)
        assert {name: float(value) for name, value in found} == published, entry.name


def test_mistakes_of_the_official_readme_have_a_note():
    entries = {e.name: e for task in TASKS for e in metafiles.read_metafile(task)}
    for name, words in {
        'paca_base_teacher_in1k': '46.7 M',
        'paca_small_c100_in1k': 'leads to the file of small_c100_49',
        'mask_rcnn_paca_base_teacher': '61.4 M',
        'mask_rcnn_paca_small_teacher': 'convmixer_tiny',
        'paca_head_paca_small_c49_ade20k': 'exchanges',
        'paca_head_paca_small_c49_100_ade20k': 'exchanges',
        'paca_head_paca_small_c100_49_ade20k': '23.7 M',
        'paca_head_paca_small_c2_ade20k': 'upernet_pacavit_small_p2cconv_2_0_512x512_160k_ade20k',
    }.items():
        assert any(words in note for note in entries[name].notes), name


def _spoil(monkeypatch, task='cls', **changes):
    first, *rest = metafiles.read_metafile(task)
    spoilt = [dataclasses.replace(first, **changes), *rest]
    monkeypatch.setattr(recount, 'read_metafile', lambda task: spoilt)
    monkeypatch.setattr(recount, 'count_parameters', lambda cfg: 12_200_680)
    problems = recount.problems_of(task, macs=False)
    return [p for p in problems if p.startswith((first.name, 'cls', 'other'))]


@pytest.mark.slow
def test_a_wrong_metafile_is_caught(monkeypatch):
    wrong = {'Row': 'tiny', 'Parameters': 12_200_681}
    (problem,) = _spoil(monkeypatch, metadata=wrong)
    assert 'Parameters: 12200681, but the model has 12200680' in problem
    monkeypatch.undo()
    (problem,) = _spoil(monkeypatch, weights=zoo.weights_url('cls', 'small'))
    assert 'IMNET_224_pacavit_tiny_p2cconv_100_0.pth, not at' in problem
    monkeypatch.undo()
    (problem,) = _spoil(monkeypatch, converted_from=zoo.weights_url('cls', 'small'))
    assert 'Converted From names' in problem
    monkeypatch.undo()
    problems = _spoil(monkeypatch, config='configs/cls/no_such.py')
    assert any('do not belong together' in p for p in problems)
    assert any('does not exist' in p for p in problems)
    assert any('the row tiny is missing' in p for p in problems)


@pytest.mark.slow
def test_the_check_command_says_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, str(assets_root() / 'dev' / 'check_metafiles.py'), '--help'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert '--write' in done.stdout


def test_readme_without_markers(monkeypatch, tmp_path):
    monkeypatch.setattr(readme_tables, 'folder_of', lambda metafile: tmp_path)
    with pytest.raises(UserError, match=r'README.md is missing: write one'):
        readme_tables.readme_of('cls')
    (tmp_path / 'README.md').write_text('no table')
    with pytest.raises(UserError, match='must have these two lines'):
        readme_tables.readme_of('cls')


@pytest.mark.parametrize('row', ROWS)
def test_addresses_are_well_formed(row):
    for model, (task, _, _) in zoo.MODELS.items():
        url = zoo.weights_url(model, row)
        assert (url is None) == (row == 'tiny_teacher')
        if url:
            assert url.startswith('https://github.com/iVMCL/PaCaViT/releases/download/pacavit/')
            assert url.endswith('.pth')
            assert ('convmixer' in url) == ('teacher' in row)
        assert zoo.config_name(model, row).startswith(f'configs/{task}/')


# ---- mmpretrain's names


@pytest.mark.slow
def test_mmpretrain_finds_our_models():
    pytest.importorskip('mmpretrain')
    pytest.importorskip('modelindex')
    from mmpretrain import get_model, list_models

    zoo.register()
    zoo.register()  # does nothing
    names = list_models('paca_')
    assert set(names) == {f'paca_{row}_in1k' for row in ROWS}
    assert 'paca_tiny_in1k' in list_models('paca_', task='Image Classification')
    model = get_model('paca_tiny_in1k', head=dict(num_classes=5))
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 5)


def test_mmpretrain_loads_the_official_weights_by_name(tmp_path, monkeypatch):
    """``pretrained=True`` fetches the address in the metafile; here it is a file."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('modelindex')
    from mmpretrain import get_model

    meta, answers = golden.load('cls_tiny_conv')
    file = tmp_path / 'IMNET_224_pacavit_tiny_p2cconv_100_0.pth'
    torch.save(golden.state_dict(meta['shapes']), file)
    zoo.register()
    model = get_model('paca_tiny_in1k', pretrained=True, url_mapping=(zoo.RELEASE, str(tmp_path)))
    with torch.no_grad():
        logits = model(golden.image(*meta['input'][:1], *meta['input'][2:]))
    torch.testing.assert_close(logits, torch.from_numpy(answers['logits']), rtol=1e-4, atol=1e-5)


def test_docstring_example():
    pytest.importorskip('mmpretrain')
    pytest.importorskip('modelindex')
    from mmengine.logging import MMLogger
    from mmpretrain import get_model

    zoo.register()
    get_model('paca_tiny_in1k')  # the first one greets
    MMLogger.get_current_instance().setLevel(
        'ERROR'
    )  # mmpretrain's remarks are no part of the example
    assert doctest.testmod(zoo).failed == 0


# ---- timm


@pytest.fixture(scope='module')
def timm():
    timm = pytest.importorskip('timm', minversion='1.0')
    import paca_mm.timm  # noqa: F401  (registers the models)

    return timm


def test_timm_knows_every_row(timm):
    assert set(timm.list_models('paca_*')) >= {f'paca_{row}' for row in ROWS}
    model = timm.create_model('paca_tiny', num_classes=0)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 384)


def test_timm_that_is_missing_or_old(timm, monkeypatch):
    import paca_mm.timm

    monkeypatch.setitem(sys.modules, 'timm.layers', None)
    with pytest.raises(ImportError, match=r'needs timm 1\.0 or newer .* pip install'):
        importlib.reload(paca_mm.timm)


@pytest.mark.slow
def test_timm_docstring_example(timm):
    import paca_mm.timm

    assert doctest.testmod(paca_mm.timm).failed == 0


def test_timm_gives_the_official_answers(timm, tmp_path):
    meta, answers = golden.load('cls_tiny_conv')
    torch.save(golden.state_dict(meta['shapes']), tmp_path / 'official.pth')
    overlay = dict(file=str(tmp_path / 'official.pth'))
    model = timm.create_model('paca_tiny', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        logits = model(golden.image(*meta['input'][:1], *meta['input'][2:]))
    torch.testing.assert_close(logits, torch.from_numpy(answers['logits']), rtol=1e-4, atol=1e-5)


def test_timm_gives_the_same_features(timm):
    features = timm.create_model('paca_small_teacher', features_only=True).eval()
    ours = PaCaViT('small_teacher').eval()
    ours.load_state_dict(features.model.backbone.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(features(x), ours(x), strict=True):
            assert torch.equal(a, b)
    assert features.feature_info.channels() == [96, 192, 320, 384]
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    chosen = timm.create_model('paca_tiny', features_only=True, out_indices=(1, 3))
    assert [f.shape[1] for f in chosen(x)] == [192, 384]


def test_timm_takes_gradient_checkpointing_and_layer_groups(timm):
    from timm.models._manipulate import group_parameters

    model = timm.create_model('paca_tiny_teacher')
    model.set_grad_checkpointing()
    assert model.backbone.with_cp
    groups = group_parameters(model, model.group_matcher())
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    assert len(groups) > sum(model.backbone.depths)
