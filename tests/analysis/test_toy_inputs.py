"""Made-up annotations go by the task, whatever the model's parts are called."""

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config

from paca_mm.analysis.build import build
from paca_mm.analysis.toy_inputs import annotations
from paca_mm.models.common.norms import revert_sync_batchnorm

DETECTORS = {
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'ATSS': 'atss/atss_r50_fpn_1x_coco',
    'DETR': 'detr/detr_r50_8xb2-150e_coco',
    'FasterRCNN': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
}


@pytest.mark.parametrize('kind', DETECTORS)
@pytest.mark.slow
def test_a_detector_of_any_kind_learns_from_boxes(kind):
    pytest.importorskip('mmdet')
    from mmengine.hub import get_config

    cfg = get_config(f'mmdet::{DETECTORS[kind]}.py')
    cfg.model.backbone.init_cfg = None
    model = build(Config(dict(model=cfg.model, default_scope='mmdet'))).train()
    assert type(model).__name__ == kind
    samples = annotations(model, 'det', 2, 64, 96)
    assert [len(sample.gt_instances.bboxes) for sample in samples] == [10, 10]
    total, _ = model.parse_losses(model(torch.randn(2, 3, 64, 96), samples, mode='loss'))
    assert total.isfinite()
    assert total > 0


def test_a_classifier_gets_labels_and_a_segmentor_a_map():
    pytest.importorskip('mmpretrain')
    pytest.importorskip('mmseg')
    from mmpretrain.structures import DataSample

    (sample,) = annotations(nn.Identity(), 'cls', 1, 64, 64)
    assert isinstance(sample, DataSample)
    assert sample.gt_label.tolist() == [0]
    segmentor = nn.Module()
    segmentor.decode_head = nn.Module()
    segmentor.decode_head.num_classes = segmentor.num_classes = 7
    (sample,) = annotations(segmentor, 'seg', 1, 48, 64)
    assert sample.gt_sem_seg.data.shape == (1, 48, 64)
    assert sample.gt_sem_seg.data.max() < 7


class AttentiveNorm(nn.SyncBatchNorm):
    """A norm that computes more than its base class."""

    def forward(self, x):
        return super().forward(x) * x.mean((2, 3), keepdim=True).sigmoid()


def test_a_norm_that_is_more_than_sync_bn_is_not_replaced_in_silence():
    assert (
        type(revert_sync_batchnorm(nn.Sequential(nn.SyncBatchNorm(4)))[0]) is not nn.SyncBatchNorm
    )
    with pytest.raises(TypeError, match='0 is a AttentiveNorm, which is more than SyncBatchNorm'):
        revert_sync_batchnorm(nn.Sequential(AttentiveNorm(4)))
