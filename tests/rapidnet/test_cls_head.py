"""The two-head classifier and its teacher in mmpretrain, and the same classifier in timm."""

import copy
import logging

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from rapidnet.examples import MINI

from helpers import golden

pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from paca_mm.checkpoint import load_whole
from paca_mm.engine.config import load_config
from paca_mm.errors import UserError
from paca_mm.models import DistilledClassifier, RapidNetClsHead

TI = 'configs/cls/rapidnet/rapidnet_ti_in1k.py'
TEACHER = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileNetV2', widen_factor=0.25),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=1280),
)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(scope='module')
def official():
    meta, answers = golden.load('rapidnet_ti')
    image = golden.image(meta['input'][0], *meta['input'][2:])
    logits, folded = (torch.from_numpy(answers[k]) for k in ('logits', 'reparam_logits'))
    torch.testing.assert_close(folded, logits, rtol=1e-4, atol=1e-5)
    return golden.state_dict(meta['shapes']), image, logits


@pytest.fixture(scope='module')
def classifier(official):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(load_config(TI).model)
    report = load_whole(model, {'state_dict_ema': official[0]}, 'official.pth', strict=True)
    assert not report.unexpected
    assert report.wrapper == 'state_dict_ema'
    return model.eval()


def small(**kwargs):
    """A small classifier; a teacher, where asked for, knows the same five classes."""
    head = dict(type='paca_mm.RapidNetClsHead', num_classes=5, in_channels=40, hidden_channels=8)
    head.update(kwargs.pop('head', {}))
    model = dict(
        type='paca_mm.DistilledClassifier',
        data_preprocessor=dict(mean=[120.0, 110, 100], std=[60.0, 50, 40], to_rgb=True),
        backbone=dict(type='paca_mm.RapidNet', arch=MINI, out_indices=(3,), drop_path_rate=0.0),
        neck=dict(type='GlobalAveragePooling'),
        head=head,
        **kwargs,
    )
    return MODELS.build(model)


def teacher_file(tmp_path, **kwargs):
    """A trained teacher, so to speak, and its file."""
    teacher = MODELS.build({**TEACHER, **kwargs})
    teacher = golden.fill(teacher).eval()
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    return teacher, str(tmp_path / 'teacher.pth')


def labels(count):
    return [DataSample().set_gt_label(i % 5) for i in range(count)]


# ---- the official answers


def test_golden_logits(classifier, official):
    with torch.no_grad():
        torch.testing.assert_close(classifier(official[1]), official[2], rtol=1e-4, atol=2e-5)


def test_golden_logits_when_folded(classifier, official):
    folded = classifier.switch_to_deploy(copy=True)
    with torch.no_grad():
        torch.testing.assert_close(folded(official[1]), official[2], rtol=1e-4, atol=2e-5)
        own = classifier(official[1])
        assert (folded(official[1]) - own).abs().max() < 1e-5 * own.abs().max()
    count = [len(list(model.modules())) for model in (folded, classifier)]
    assert count[0] < count[1] * 0.8
    assert folded.head.fc_dist is None
    assert classifier.head.fc_dist is not None


def test_official_keys_load_as_they_are(official):
    model = MODELS.build(load_config(TI).model).eval()
    model.load_state_dict(official[0], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(official[1]), official[2], rtol=1e-4, atol=2e-5)


def test_a_folded_classifier_loads_and_does_not_train(classifier):
    folded = classifier.switch_to_deploy(copy=True)
    cfg = load_config(
        TI, {'model.backbone.deploy': True, 'model.head.deploy': True, 'model.teacher': None}
    )
    model = MODELS.build(cfg.model)
    model.load_state_dict(folded.state_dict(), strict=True)
    with pytest.raises(UserError, match='deploy mode'):
        model.train()
    with pytest.raises(UserError, match=r'RapidNetClsHead is in deploy mode(?s:.*)deploy=False'):
        model.head.train()


# ---- the head


def test_the_answer_is_the_mean_of_both_heads():
    head = golden.fill(RapidNetClsHead(5, 6, hidden_channels=8)).eval()
    x = torch.randn(3, 6)
    hidden = head.pre_logits((x,))
    layer = head.hidden
    expected = F.gelu(layer.norm(layer.conv(x[..., None, None]))).flatten(1)
    torch.testing.assert_close(hidden, expected)
    both = [hidden @ fc.weight.flatten(1).t() + fc.bias for fc in (head.fc, head.fc_dist)]
    torch.testing.assert_close(head((x,)), (both[0] + both[1]) / 2)
    (sample, *_) = head.predict((x,))
    torch.testing.assert_close(sample.pred_score, ((both[0] + both[1]) / 2)[0].softmax(0))


def test_one_head():
    head = golden.fill(RapidNetClsHead(5, 6, hidden_channels=8, distillation=False)).eval()
    x = torch.randn(3, 6)
    assert head.fc_dist is None
    assert not [key for key in head.state_dict() if 'dist' in key]
    torch.testing.assert_close(head((x,)), head.fc(head._hide(x)).flatten(1))
    assert set(head.loss((x,), labels(3))) == {'loss'}


def test_parameters_with_one_head_and_with_two():
    for count, distillation in ((6_627_840, True), (6_114_840, False)):
        cfg = load_config(TI, {'model.head.distillation': distillation, 'model.teacher': None})
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        assert sum(p.numel() for p in model.parameters()) == count


def test_without_a_teacher_both_heads_learn_the_labels(caplog):
    head = golden.fill(RapidNetClsHead(5, 6, hidden_channels=8, alpha=0.3)).train()
    x = torch.randn(4, 6)
    target = torch.tensor([0, 1, 2, 3])
    with caplog.at_level(logging.INFO):
        losses = head.loss((x,), labels(4))
        head.loss((x,), labels(4))
    said = [r for r in caplog.records if 'has no teacher' in r.message]
    assert len(said) <= 1
    hidden = copy.deepcopy(head)._hide(x)
    torch.testing.assert_close(
        losses['loss'], 0.7 * F.cross_entropy(head.fc(hidden).flatten(1), target)
    )
    torch.testing.assert_close(
        losses['loss_dist'], 0.3 * F.cross_entropy(head.fc_dist(hidden).flatten(1), target)
    )


def test_the_log_says_that_there_is_no_teacher(capsys):
    from mmengine.logging import MMLogger

    MMLogger.get_instance('teacherless')
    head = RapidNetClsHead(5, 6, hidden_channels=8)
    for _ in range(2):
        head.loss((torch.randn(4, 6),), labels(4))
    out, err = capsys.readouterr()
    assert (out + err).count('has no teacher: its second head is trained on the labels') == 1


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [(dict(num_classes=0), 'num_classes=0'), (dict(alpha=2), 'alpha=2 must be from 0 to 1')],
)
def test_wrong_arguments_are_explained(wrong, message):
    with pytest.raises(UserError, match=message):
        RapidNetClsHead(**{'num_classes': 5, 'in_channels': 6, **wrong})


# ---- the teacher


def test_the_second_head_learns_what_the_teacher_names(tmp_path):
    teacher, file = teacher_file(tmp_path)
    model = golden.fill(small(teacher=TEACHER, teacher_checkpoint=file)).train()
    images = golden.image(4, 64, 64)
    twin = copy.deepcopy(model)
    losses = model.loss(images, labels(4))
    with torch.no_grad():
        named = teacher(images).argmax(1)
    feats = twin.extract_feat(images)
    hidden = twin.head._hide(feats[-1])
    expected = 0.5 * F.cross_entropy(twin.head.fc_dist(hidden).flatten(1), named)
    torch.testing.assert_close(losses['loss_dist'], expected)
    target = torch.arange(4)
    expected = 0.5 * F.cross_entropy(twin.head.fc(hidden).flatten(1), target)
    torch.testing.assert_close(losses['loss'], expected)
    sum(losses.values()).backward()
    assert model.head.fc_dist.weight.grad.abs().max() > 0


def test_the_teacher_is_no_part_of_the_model(tmp_path):
    teacher, file = teacher_file(tmp_path)
    model = small(teacher=TEACHER, teacher_checkpoint=file)
    keys, parameters = set(model.state_dict()), len(list(model.parameters()))
    assert model._teacher.module is None  # evaluation does without it
    model.init_weights()
    inside = model._teacher.module
    assert set(model.state_dict()) == keys
    assert len(list(model.parameters())) == parameters
    assert copy.deepcopy(model)._teacher.module is inside  # EMA copies the model
    model.train()
    assert not inside.training
    assert not any(p.requires_grad for p in inside.parameters())
    before = {k: v.clone() for k, v in inside.state_dict().items()}
    model.loss(golden.image(2, 64, 64), labels(2))
    for key, value in inside.state_dict().items():
        assert torch.equal(value, before[key]), key
        assert torch.equal(value, teacher.state_dict()[key]), key


def test_the_teacher_sees_images_in_its_own_normalisation(tmp_path):
    own = dict(type='ClsDataPreprocessor', mean=[1.0, 2, 3], std=[4.0, 5, 6], to_rgb=False)
    teacher, file = teacher_file(tmp_path, data_preprocessor=own)
    model = small(teacher={**TEACHER, 'data_preprocessor': own}, teacher_checkpoint=file)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)  # BGR
    inputs = model.data_preprocessor(dict(inputs=pixels))['inputs']
    with torch.no_grad():
        expected = teacher(teacher.data_preprocessor(dict(inputs=pixels))['inputs'])
    torch.testing.assert_close(model._teacher_logits(inputs), expected, rtol=1e-4, atol=1e-4)


def test_a_teacher_from_a_config_file(tmp_path):
    teacher, file = teacher_file(tmp_path)
    Config(dict(model=TEACHER)).dump(tmp_path / 'teacher.py')
    model = small(teacher=str(tmp_path / 'teacher.py'), teacher_checkpoint=file)
    image = golden.image(1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model._teacher_logits(image), teacher(image))


def test_a_teacher_of_timm():
    """As in the recipe, but small, and without its weights."""
    pytest.importorskip('timm')
    teacher = dict(type='TimmClassifier', model_name='regnety_002', num_classes=5, pretrained=True)
    model = small(teacher=teacher)
    model.teacher_cfg = {**teacher, 'pretrained': False}
    model.init_weights()
    losses = model.train().loss(golden.image(2, 64, 64), labels(2))
    assert set(losses) == {'loss', 'loss_dist'}


def test_a_teacher_of_other_classes(tmp_path):
    _, file = teacher_file(tmp_path)
    model = small(teacher=TEACHER, teacher_checkpoint=file, head=dict(num_classes=7))
    with pytest.raises(
        UserError,
        match=r'teacher knows 5 classes, but the model is to learn 7(?s:.*)model.teacher=None',
    ):
        model.init_weights()

    class Silent(nn.Module):  # it does not say how many classes it knows
        def forward(self, x, mode):
            return torch.zeros(len(x), 5)

    model._teacher.module = Silent()
    with pytest.raises(UserError, match='teacher knows 5 classes'):
        model.loss(golden.image(2, 64, 64), labels(2))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(teacher=TEACHER), 'the teacher has no weights'),
        (
            dict(teacher=TEACHER, teacher_checkpoint='x.pth', head=dict(distillation=False)),
            'no second head',
        ),
    ],
)
def test_a_teacher_that_cannot_teach(wrong, message):
    with pytest.raises(UserError, match=message):
        small(**wrong)


def test_a_teacher_that_nobody_knows():
    for name, checkpoint, message in (
        ('no_such_model', 'x.pth', 'no model of mmpretrain'),
        ('no/such/config.py', 'x.pth', 'no config file'),
        ('no/such/config.py', True, 'mmpretrain names no weights'),
    ):
        with pytest.raises(UserError, match=message):
            small(teacher=name, teacher_checkpoint=checkpoint).init_weights()


def test_a_classifier_without_a_teacher_is_mmpretrains():
    model = small()
    assert isinstance(model, DistilledClassifier)
    losses = model.train().loss(golden.image(2, 64, 64), labels(2))
    assert set(losses) == {'loss', 'loss_dist'}


# ---- timm


@pytest.fixture(scope='module')
def timm():
    timm = pytest.importorskip('timm', minversion='1.0')
    import paca_mm.timm  # noqa: F401  (registers the models)

    return timm


def test_timm_gives_the_official_answers(timm, official, tmp_path):
    """From the averaged weights of an official file."""
    raw = {key: torch.zeros_like(value) for key, value in official[0].items()}
    file = tmp_path / 'official.pth'
    torch.save({'state_dict': raw, 'state_dict_ema': official[0]}, file)
    overlay = dict(file=str(file))
    model = timm.create_model('rapidnet_ti', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(official[1]), official[2], rtol=1e-4, atol=2e-5)
    # Another number of classes starts both heads again, and nothing else.
    other = timm.create_model(
        'rapidnet_ti', pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7
    )
    assert [layer.out_channels for layer in other.get_classifier()] == [7, 7]
    assert torch.equal(other.head.hidden.conv.weight, official[0]['prediction.1.weight'])


def test_timm_takes_mmpretrains_weights_and_back(timm, classifier):
    model = timm.create_model('rapidnet_ti')
    model.load_state_dict(classifier.state_dict(), strict=True)
    classifier.load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize(('row', 'hidden'), [('ti', 512), ('m', 512), ('b', 768)])
def test_timm_knows_the_rows(timm, row, hidden):
    with torch.device('meta'):
        model = timm.create_model(f'rapidnet_{row}')
    assert model.head_hidden_size == hidden
    assert model.num_features == {'ti': 224, 'm': 320, 'b': 416}[row]


def test_timm_features_and_heads(timm):
    features = timm.create_model('rapidnet_ti', features_only=True, out_indices=(1, 3)).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert [tuple(f.shape) for f in features(x)] == [(1, 64, 8, 12), (1, 224, 2, 3)]
        assert features.feature_info.channels() == [64, 224]
        model = timm.create_model('rapidnet_ti', num_classes=3, in_chans=4).eval()
        x = torch.rand(1, 4, 64, 64)
        assert model(x).shape == (1, 3)
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        assert pooled.shape == (1, 512)
        model.reset_classifier(0)
        assert model(x).shape == (1, 224)
        model.reset_classifier(4)
        assert model.eval()(x).shape == (1, 4)
        assert model.head.fc_dist.bias.abs().max() == 0
