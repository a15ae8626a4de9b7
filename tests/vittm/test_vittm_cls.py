"""The two-head classifier in mmpretrain, its loss and its accuracies, and the same one in timm."""

import pytest
import torch
import torch.nn.functional as F

from helpers import golden

pytest.importorskip('mmpretrain')

from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from vittm.examples import MINI

from paca_mm.checkpoint import load_whole
from paca_mm.checkpoint.convert import convert
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.models import ViTTMClsHead

BASE = 'configs/cls/vittm/vittm_base_16_32_in1k.py'
TINY = {
    'model.backbone.arch': 'tiny',
    'model.backbone.init_cfg': None,
    'model.head.in_channels': 192,
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(scope='module')
def official():
    meta, answers = golden.load('vittm_tiny_16_32')
    image = golden.image(meta['input'][0], *meta['input'][2:])
    logits = [torch.from_numpy(answers[f'logits{i}']) for i in range(2)]
    return golden.state_dict(meta['shapes']), image, logits


@pytest.fixture(scope='module')
def classifier(official):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(load_config(BASE, TINY).model)
    report = load_whole(model, official[0], 'official.pth', strict=True)
    assert not report.unexpected
    return model.eval()


def head(**kwargs):
    """A filled head of five classes, which do not begin with zeros."""
    return golden.fill(ViTTMClsHead(**{'num_classes': 5, 'in_channels': 8, **kwargs})).eval()


def feats():
    torch.manual_seed(1)
    return ((torch.randn(3, 4, 4, 8), torch.randn(3, 2, 2, 8)),)


def labels(count):
    return [DataSample().set_gt_label(i % 5) for i in range(count)]


# ---- the official answers


def test_golden_logits(classifier, official):
    _, image, (memory, process) = official
    with torch.no_grad():
        torch.testing.assert_close(classifier(image), memory, rtol=1e-4, atol=2e-5)
        both = classifier.head._logits(classifier.backbone(image))
        torch.testing.assert_close(both[1], process, rtol=1e-4, atol=2e-5)


def test_official_keys_load_as_they_are(official):
    model = MODELS.build(load_config(BASE, TINY).model).eval()
    model.load_state_dict(official[0], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(official[1]), official[2][0], rtol=1e-4, atol=2e-5)


def test_a_classifier_goes_to_the_official_layout_and_back(official, classifier):
    converted = convert(official[0], task='cls')
    assert {*converted.state} == {*classifier.state_dict()}
    back = convert(converted.state, to_official=True)
    assert back.state.keys() == official[0].keys()
    for key in ('head.weight', 'process_head.bias', 'fc_norm_process.weight', 'process_norm.bias'):
        assert torch.equal(back.state[key], official[0][key]), key


# ---- the head


def test_both_heads_are_the_equations():
    layer, ((memory, process),) = head(), feats()

    def norm(name, x):
        p = getattr(layer, name)
        return F.layer_norm(x, (8,), p.weight, p.bias, 1e-6)

    from_memory = layer.fc(norm('fc_norm', memory.flatten(1, 2).mean(1)))
    pooled = norm('process_norm', process.flatten(1, 2)).mean(1)
    from_process = layer.process_fc(norm('process_fc_norm', pooled))
    mean = (from_memory + from_process) / 2
    for stream, expected in (('memory', from_memory), ('process', from_process), ('mean', mean)):
        layer.predict_from = stream
        torch.testing.assert_close(layer(feats()), expected)
        samples = layer.predict(feats())
        torch.testing.assert_close(samples[1].pred_score, expected[1].softmax(0))
        torch.testing.assert_close(samples[1].memory_score, from_memory[1].softmax(0))
        torch.testing.assert_close(samples[1].process_score, from_process[1].softmax(0))
        assert layer.pre_logits(feats()).shape == (3, 16 if stream == 'mean' else 8)


def test_classifiers_begin_with_zeros():
    layer = ViTTMClsHead(5, 8)
    layer.init_weights()
    assert not layer(feats()).any()
    assert not any(p.any() for fc in (layer.fc, layer.process_fc) for p in fc.parameters())


def test_the_recipes_loss_is_binary_cross_entropy_summed_over_the_classes():
    """Of mixed labels, for each head by itself; the log has both and their sum."""
    cfg = load_config(BASE)
    layer = head(loss=cfg.model.head.loss)
    target = torch.rand(3, 5)
    samples = [DataSample().set_gt_label(0).set_gt_score(t) for t in target]
    losses = layer.loss(feats(), samples)
    assert set(losses) == {'loss_memory', 'loss_process'}
    for name, logits in zip(losses, layer._logits(feats()), strict=True):
        p = torch.sigmoid(logits.double())
        terms = target * p.log() + (1 - target) * (1 - p).log()
        expected = -terms.sum(1).mean()
        torch.testing.assert_close(losses[name].double(), expected, rtol=1e-5, atol=1e-5)
    total, logged = MODELS.build(load_config(BASE, TINY).model).parse_losses(losses)
    torch.testing.assert_close(total, losses['loss_memory'] + losses['loss_process'])
    assert {*logged} == {'loss', 'loss_memory', 'loss_process'}


def test_training_may_log_both_accuracies():
    layer = head(cal_acc=True)
    losses = layer.loss(feats(), labels(3))
    for stream, logits in zip(('memory', 'process'), layer._logits(feats()), strict=True):
        right = (logits.argmax(1) == torch.arange(3)).float().mean() * 100
        assert losses[f'{stream}_accuracy_top-1'][0].item() == pytest.approx(right.item())


def test_evaluation_shows_both_accuracies():
    """What mmpretrain's own ``Accuracy`` says of the memory, and ours of the process tokens."""
    import paca_mm.registry  # noqa: F401  (as the config's default scope would)

    layer = head()
    cfg = load_config('configs/cls/vittm/vittm_shapes.py')
    evaluator = Evaluator(cfg.val_evaluator)
    samples = layer.predict(feats(), labels(3))
    evaluator.process(samples)
    metrics = evaluator.evaluate(3)
    memory, process = layer._logits(feats())
    assert not torch.equal(
        memory.argmax(1), process.argmax(1)
    )  # so that neither stands for the other
    assert set(metrics) == {'accuracy/top1', 'process_accuracy/top1'}
    for key, logits in (('accuracy/top1', memory), ('process_accuracy/top1', process)):
        right = (logits.argmax(1) == torch.arange(3)).float().mean() * 100
        assert metrics[key] == pytest.approx(right.item())


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(num_classes=0), 'num_classes=0'),
        (dict(predict_from='both'), "predict_from='both' is unknown; known: 'memory'"),
    ],
)
def test_wrong_arguments_are_explained(wrong, message):
    with pytest.raises(UserError, match=message):
        head(**wrong)


def test_another_backbone_or_head_is_explained():
    from paca_mm.models import ViTTMAccuracy

    with pytest.raises(UserError, match=r"one tensor, \(2, 8, 3, 3\)(?s:.*)out_type='raw'"):
        head()((torch.randn(2, 8, 3, 3),))
    with pytest.raises(UserError, match=r"stream='mean' is unknown"):
        ViTTMAccuracy('mean')
    sample = DataSample().set_gt_label(0).set_pred_score(torch.rand(5)).to_dict()
    with pytest.raises(UserError, match=r"no process_score(?s:.*)type='Accuracy'"):
        ViTTMAccuracy().process(None, [sample])


# ---- timm


@pytest.fixture(scope='module')
def timm():
    timm = pytest.importorskip('timm', minversion='1.0')
    import paca_mm.timm  # noqa: F401  (registers the models)

    return timm


def test_timm_gives_the_official_answers(timm, official, tmp_path):
    """And takes mmpretrain's weights; another number of classes starts both classifiers again."""
    file = tmp_path / 'official.pth'
    torch.save(official[0], file)
    arguments = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(file)), arch='tiny')
    model = timm.create_model('vittm_base_16_32', **arguments).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(official[1]), official[2][0], rtol=1e-4, atol=2e-5)
    other = timm.create_model('vittm_base_16_32', **arguments, num_classes=7)
    assert [layer.out_features for layer in other.get_classifier()] == [7, 7]
    assert torch.equal(other.head.fc_norm.weight, official[0]['fc_norm.weight'])


def test_timm_takes_mmpretrains_weights_and_back(timm, classifier):
    model = timm.create_model('vittm_base_16_32', arch='tiny')
    model.load_state_dict(classifier.state_dict(), strict=True)
    classifier.load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize('row', ['small_28_28', 'small_16_32', 'base_28_28', 'base_16_32'])
def test_timm_knows_the_rows(timm, row):
    with torch.device('meta'):
        model = timm.create_model(f'vittm_{row}')
    patches = tuple(map(int, row.split('_')[1:]))
    assert (model.backbone.memory_patch, model.backbone.process_patch) == patches
    assert model.num_features == {'s': 384, 'b': 768}[row[0]]


def test_timm_features_and_heads(timm):
    small = dict(arch=MINI, img_size=64)
    features = timm.create_model(
        'vittm_base_16_32', features_only=True, out_indices=(0, 2), **small
    ).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert [tuple(f.shape) for f in features(x)] == [(1, 24, 2, 3)] * 2
        assert features.feature_info.reduction() == [32, 32]
        model = timm.create_model('vittm_base_16_32', num_classes=3, in_chans=4, **small).eval()
        x = torch.rand(1, 4, 64, 64)
        assert model(x).shape == (1, 3)
        last, maps = model.forward_intermediates(x)
        assert len(maps) == 3
        pooled = model.forward_head(last, pre_logits=True)
        assert pooled.shape == (1, 24)
        torch.testing.assert_close(pooled, model.forward_head(model.forward_features(x), True))
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), pooled)
        model.reset_classifier(0, '')
        assert model(x).shape == (1, 24, 4, 4)
        model.reset_classifier(4, 'avg')
        assert not model.eval()(x).any()
    with pytest.raises(ValueError, match="knows 'avg'"):
        model.reset_classifier(4, 'max')
