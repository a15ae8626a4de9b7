"""What every backbone of this package promises, whatever its family.

The toy model of each family's record is tried, and the models of ``tests/<family>/examples.py`` where
there is such a file. A family that comes or goes needs no line here.
"""

import copy
import importlib
import importlib.util
import io

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from helpers import golden
from paca_mm.errors import UserError
from paca_mm.families import families, load_member

FAMILIES = {name: family for name, family in families().items() if family.backbone and family.toy}


def _examples(name):
    """The module ``tests/<family>/examples.py``, or None."""
    try:
        found = importlib.util.find_spec(f'{name}.examples')
    except ModuleNotFoundError:
        return None
    return importlib.import_module(f'{name}.examples') if found else None


CASES = {f'{name}-toy': (name, dict(family.toy)) for name, family in FAMILIES.items()}
for _name in FAMILIES:
    for _case, _arguments in getattr(_examples(_name), 'EXAMPLES', {}).items():
        CASES[f'{_name}-{_case}'] = (_name, _arguments)

every_case = pytest.mark.parametrize('case', CASES)
every_family = pytest.mark.parametrize('case', [f'{name}-toy' for name in FAMILIES])


def build(case, **kwargs):
    """A small filled model in eval mode."""
    name, arguments = CASES[case]
    cls = load_member(FAMILIES[name].backbone)
    return golden.fill(cls(**{'drop_path_rate': 0.0, **arguments, **kwargs})).eval()


def loss_of(outs):
    return sum((out * torch.randn_like(out)).sum() for out in outs)


@every_case
def test_every_parameter_gets_a_gradient(case):
    model = build(case).train()
    loss_of(model(golden.image(2, 64, 64))).backward()
    none = getattr(_examples(CASES[case][0]), 'has_no_gradient', lambda key: False)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert none(key) or parameter.grad.abs().max() > 0, key


@every_case
def test_recomputing_gives_the_same_numbers(case):
    image = golden.image(2, 48, 64)
    results = []
    for with_cp in (False, True):
        model = build(case, with_cp=with_cp, drop_path_rate=0.5).train()
        torch.manual_seed(1)
        outs = model(image)
        sum((out**2).mean() for out in outs).backward()
        results.append([*outs, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-8)


@every_family
@pytest.mark.parametrize('size', [(64, 64), (33, 71), (97, 40)])
def test_maps_are_contiguous_and_as_large_as_the_strides_say(case, size):
    """mmcv's RoIAlign reads a channels-last map as if it were contiguous: scrambled, in silence."""
    model = build(case)
    with torch.no_grad():
        outs = model(golden.image(2, *size))
    expected = [
        (2, model.embed_dims[i], *(-(-side // model.strides[i]) for side in size))
        for i in model.out_indices
    ]
    assert [tuple(out.shape) for out in outs] == expected
    assert all(out.is_contiguous() for out in outs)


@every_family
def test_an_image_in_any_memory_order_gives_the_same_maps(case):
    model, image = build(case), golden.image(2, 64, 64)
    with torch.no_grad():
        for a, b in zip(
            model(image), model(image.to(memory_format=torch.channels_last)), strict=True
        ):
            torch.testing.assert_close(a, b)


@every_case
def test_out_indices_build_no_more_than_they_need(case):
    full, part = build(case), build(case, out_indices=(1,))
    assert part.num_features == full.num_features[1:2]
    assert sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in full.parameters())
    assert part.state_dict().keys() <= full.state_dict().keys()
    assert build(case, out_indices=(-1,)).out_indices == full.out_indices[-1:]
    image = golden.image(1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(part(image)[0], full(image)[1])


@every_case
@pytest.mark.slow
def test_frozen_parts_get_no_gradient_and_stay_in_eval_mode(case):
    stages = len(build(case).depths)
    trainable = []
    for frozen in range(-1, stages + 1):
        model = build(case, frozen_stages=frozen).train()
        trainable.append(sum(p.requires_grad for p in model.parameters()))
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                assert not module.training
            if isinstance(module, _BatchNorm) and own and own[0].requires_grad:
                assert module.training
    assert trainable[0] == len(list(build(case).parameters()))
    assert trainable == sorted(set(trainable), reverse=True)  # each stage adds to what is frozen
    with pytest.raises(UserError, match='frozen_stages'):
        build(case, frozen_stages=stages + 1)


@every_case
def test_norm_eval_keeps_the_statistics(case):
    if not getattr(_examples(CASES[case][0]), 'BATCH_NORM', True):
        assert not any(isinstance(m, _BatchNorm) for m in build(case).modules())
        return
    model = build(case, norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    model(golden.image(2, 64, 64))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@every_case
@pytest.mark.parametrize('prefix', ['', 'backbone.', 'a.b.'])
def test_keys_go_to_the_official_layout_and_back(case, prefix):
    model = build(case)
    layout = model.layout
    ours = {prefix + key: value for key, value in model.state_dict().items()}
    state = dict(ours)
    layout.to_official(state, prefix)
    official = dict(state)
    layout.to_ours(state, prefix, bare=True)
    assert state.keys() == ours.keys()
    assert all(state[key] is value for key, value in ours.items())
    again = build(case)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict({k[len(prefix) :]: v for k, v in official.items()}, strict=True)
    for key, value in again.state_dict().items():
        assert torch.equal(value, ours[prefix + key]), key


@every_family
def test_loaded_weights_are_not_initialised_again(case, tmp_path):
    saved = build(case).state_dict()
    torch.save(saved, tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    name, arguments = CASES[case]
    model = load_member(FAMILIES[name].backbone)(**arguments, init_cfg=init_cfg)
    for _ in range(2):  # a Runner calls it again
        model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved[key]), key


@every_family
def test_a_file_of_another_version_is_told_apart(case):
    name, arguments = CASES[case]
    cls = load_member(FAMILIES[name].backbone)
    old = cls(**arguments)
    assert old.state_dict()._metadata['']['version'] == cls._version == 1
    first = next(iter(old.state_dict()))

    class Newer(cls):
        _version = 2
        upgraded = 0

        def _upgrade(self, state_dict, prefix, version):
            assert version == 1
            type(self).upgraded += 1
            state_dict[prefix + first] = state_dict[prefix + first] + 1

    newer = Newer(**arguments)
    newer.load_state_dict(old.state_dict())
    torch.testing.assert_close(newer.state_dict()[first], old.state_dict()[first] + 1)
    newer.load_state_dict(newer.state_dict())
    assert Newer.upgraded == 1
    with pytest.raises(UserError, match=r'a newer paca_mm.*version 2 .* up to version 1'):
        old.load_state_dict(newer.state_dict())


@every_case
def test_building_twice_is_building_twice(case):
    _, arguments = CASES[case]
    before = copy.deepcopy(arguments)
    first, second = build(case), build(case)
    assert arguments == before
    assert [v.shape for v in first.state_dict().values()] == [
        v.shape for v in second.state_dict().values()
    ]


@every_family
def test_copies_and_pickles_are_the_model(case):
    model, image = build(case), golden.image(1, 64, 64)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    with torch.no_grad():
        for other in (copy.deepcopy(model), loaded):
            for a, b in zip(model(image), other(image), strict=True):
                assert torch.equal(a, b)


@every_case
def test_autocast_stays_close(case):
    model, image = build(case), golden.image(1, 64, 64)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast('cpu', torch.bfloat16):
            rough = model(image)
    for a, b in zip(exact, rough, strict=True):
        assert (a - b.float()).norm() / a.norm() < 0.05


@every_case
@pytest.mark.slow
def test_compiles_as_one_graph(case):
    model, image = build(case), golden.image(1, 64, 64)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for a, b in zip(model(image), compiled(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


@every_case
def test_layer_depths_begin_at_the_stem_and_miss_no_layer(case):
    model = build(case)
    depths = {}
    for name, _ in model.named_parameters():
        depth, count = model.get_layer_depth(f'backbone.{name}', 'backbone.')
        assert count == sum(model.depths) + 2
        depths.setdefault(depth, name)
    assert sorted(depths) == list(range(sum(model.depths) + 1))
    assert model.get_layer_depth('head.fc.weight', 'backbone.')[0] == sum(model.depths) + 1


@every_family
def test_images_of_any_channels(case):
    model = build(case, in_channels=5)
    with torch.no_grad():
        assert model(torch.rand(1, 5, 64, 64))[0].shape[0] == 1
    with pytest.raises(UserError, match=r'in_channels=5.*\(1, 3, 64, 64\)'):
        model(torch.rand(1, 3, 64, 64))


@every_family
@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(arch='no_such'), 'is unknown'),
        (dict(arch=5), 'a name or a dict'),
        (dict(drop_path_rate=1.0), 'below 1'),
        (dict(out_indices=(9,)), 'must name stages'),
        (dict(out_indices=()), 'at least one'),
        (dict(frozen_stages=-2), 'from -1'),
    ],
)
def test_wrong_arguments_are_explained(case, wrong, message):
    with pytest.raises(UserError, match=message):
        build(case, **wrong)


@pytest.mark.parametrize('host', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
@every_family
def test_builds_in_the_scope_of_every_host(case, host):
    pytest.importorskip(host)
    from mmengine.registry import DefaultScope

    name, arguments = CASES[case]
    models = importlib.import_module(f'{host}.registry').MODELS
    with DefaultScope.overwrite_default_scope(host):
        built = models.build({'type': f'paca_mm.{FAMILIES[name].backbone}', **arguments})
    assert type(built) is load_member(FAMILIES[name].backbone)
