"""Whole checkpoints from the official layout to ours and back."""

import pytest
import torch

from helpers import golden
from helpers.rows import ROWS
from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.convert import convert, convert_file
from paca_mm.errors import UserError
from paca_mm.models import PaCaViT

#: What stands around the backbone, in our layout.
AROUND = {
    'cls': {'head.fc.weight': (10, 4), 'head.fc.bias': (10,)},
    'det': {'neck.lateral_convs.0.conv.weight': (2, 2), 'rpn_head.rpn_cls.bias': (3,)},
    'seg': {'decode_head.clustering.1.weight': (2, 2), 'decode_head.convs.0.bn.weight': (2,)},
    'backbone': {},
}


def checkpoint(task='cls', row='tiny', **kwargs):
    """A state dict in our layout; every tensor holds a number of its own."""
    with torch.device('meta'):
        own = PaCaViT(**{**ROWS[row][0], **kwargs}).state_dict()
    prefix = '' if task == 'backbone' else 'backbone.'
    shapes = {prefix + key: tuple(value.shape) for key, value in own.items()}
    shapes |= AROUND[task]
    return {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}


def assert_same(a, b):
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@pytest.mark.parametrize('row', ROWS)
@pytest.mark.slow
def test_there_and_back_on_every_row(row):
    ours = checkpoint('cls', row)
    official = convert(ours, to_official=True)
    assert official.task == 'cls'
    assert official.rows == (row,)
    assert {'head.weight', 'patch_embed.proj.0.weight'} <= set(official.state)
    assert not any(key.startswith('backbone.') for key in official.state)
    back = convert(official.state)
    assert_same(back.state, ours)
    assert back.dropped == official.added  # the teacher's constant kernels
    assert bool(back.dropped) == ('teacher' in row)
    # Every key of the source is accounted for, once.
    accounted = [a for a, _ in back.renamed] + list(back.dropped)
    assert sorted(accounted) == sorted(official.state)


@pytest.mark.parametrize('task', AROUND)
def test_there_and_back_on_every_task(task):
    ours = checkpoint(task)
    official = convert(ours, to_official=True)
    assert official.task == task
    assert_same(convert(official.state).state, ours)
    if task != 'cls':  # named alike but for the backbone
        assert set(AROUND[task]) <= set(official.state)


@pytest.mark.parametrize('name', ['cls_tiny_conv', 'feat_small_mlp_ade', 'feat_small_teacher'])
def test_official_names_are_the_published_ones(name):
    meta, _ = golden.load(name)
    official = {key: torch.zeros(shape) for key, shape in meta['shapes'].items()}
    for key in [k for k in official if k.endswith('blur_filter')]:
        kernel = torch.tensor([1.0, 2.0, 1.0])
        official[key] = (torch.outer(kernel, kernel) / 16).expand(official[key].shape).clone()
    ours = convert(official)
    back = convert(ours.state, to_official=True).state
    assert {key: tuple(value.shape) for key, value in back.items()} == {
        key: tuple(shape) for key, shape in meta['shapes'].items()
    }
    assert all(torch.equal(back[key], value) for key, value in official.items())


def test_rows_that_ade_makes_alike_are_all_named():
    conversion = convert(
        checkpoint('seg', 'small_c49', num_clusters=(200, 200, 200, 0)), to_official=True
    )
    assert conversion.rows == ('small', 'small_c2', 'small_c49')
    assert 'small or small_c2 or small_c49' in str(conversion)


def test_a_size_of_ones_own_converts_too():
    arch = dict(embed_dims=(8, 8), num_heads=(1, 2), depths=(1, 1), mlp_ratios=(2, 2))
    ours = checkpoint('cls', arch=arch, num_clusters=(3, 0), out_indices=(1,))
    official = convert(ours, to_official=True)
    assert official.rows == ()
    assert_same(convert(official.state).state, ours)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_files_and_the_report(tmp_path, suffix):
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    ours = checkpoint()
    source, official, back = (tmp_path / name for name in ('a.pth', f'b{suffix}', f'c{suffix}'))
    torch.save({'state_dict': ours, 'optimizer': {}, 'meta': {'epoch': 3}}, source)
    report = convert_file(source, official, to_official=True)
    assert 'classification checkpoint' in str(report)
    assert 'the published row tiny' in str(report)
    assert 'left out: optimizer, meta' in str(report)
    assert 'backbone.stage1.0.norm1.weight -> stage1.0.norm1_before.weight' in report.every_key()
    convert_file(official, back)
    content = read_checkpoint(back)
    assert content['meta']['row'] == 'tiny'
    state = content['state_dict']
    assert set(state) == set(ours)
    assert all(torch.equal(state[key], ours[key]) for key in ours)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(['a.pth', official.name, back.name])


def test_half_precision_stays_half(tmp_path):
    ours = {key: value.half() for key, value in checkpoint('cls', 'small_teacher').items()}
    official = convert(ours, to_official=True)
    assert {value.dtype for value in official.state.values()} == {torch.float16}
    assert_same(convert(official.state).state, ours)


def test_an_existing_file_is_written_over_only_on_demand(tmp_path):
    source, target = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(checkpoint(), source)
    target.write_text('precious')
    with pytest.raises(UserError, match=r'exists already; --force'):
        convert_file(source, target, to_official=True)
    assert target.read_text() == 'precious'
    convert_file(source, target, to_official=True, force=True)
    assert 'head.weight' in read_checkpoint(target)
    with pytest.raises(UserError, match='the source itself'):
        convert_file(source, source, to_official=True, force=True)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    source, target = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(checkpoint(), source)
    target.write_text('precious')

    def full_disk(_, path):
        path.write_text('torn')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(UserError, match='no space is left on the disk'):
        convert_file(source, target, to_official=True, force=True)
    assert target.read_text() == 'precious'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.pth', 'b.pth']


def test_what_was_asked_for_is_what_it_must_be():
    ours = checkpoint('det', 'small_c49')
    with pytest.raises(
        UserError, match=r'detection checkpoint, not a classification one.*small_c49'
    ):
        convert(ours, to_official=True, task='cls')
    with pytest.raises(UserError, match=r'not the row small: .*the published row small_c49\)'):
        convert(ours, to_official=True, row='small')
    with pytest.raises(UserError, match=r"no published row 'smal'; did you mean small\?"):
        convert(ours, to_official=True, row='smal')


def test_the_layout_must_be_the_other_one():
    ours = checkpoint()
    with pytest.raises(UserError, match=r"this package's layout already"):
        convert(ours)
    with pytest.raises(UserError, match='official layout already'):
        convert(convert(ours, to_official=True).state, to_official=True)


def test_an_incomplete_checkpoint_is_refused():
    official = dict(convert(checkpoint(), to_official=True).state)
    del official['stage3.2.mlp.fc1.bias']
    with pytest.raises(
        UserError, match=r'(?s)not complete.*missing in the file: stage3.2.mlp.fc1.bias'
    ):
        convert(official)


def test_files_of_something_else(tmp_path):
    torch.save({'layer1.weight': torch.zeros(2)}, tmp_path / 'resnet.pth')
    with pytest.raises(UserError, match=r'holds no .*PaCa.* backbone'):
        convert_file(tmp_path / 'resnet.pth', tmp_path / 'b.pth')
    with pytest.raises(UserError, match=r'must end in \.pth or \.safetensors'):
        convert_file(tmp_path / 'resnet.pth', tmp_path / 'b.txt')
    with pytest.raises(UserError, match='does not exist: make it first'):
        convert_file(tmp_path / 'resnet.pth', tmp_path / 'no' / 'b.pth')


class _Payload:
    def __reduce__(self):
        return exec, ('raise SystemExit("ran")',)


def test_code_in_a_file_is_never_run(tmp_path):
    torch.save({'state_dict': checkpoint(), 'x': _Payload()}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='not loaded: reading it would call'):
        convert_file(tmp_path / 'a.pth', tmp_path / 'b.pth', to_official=True)
