"""Configs made small: two images of the embedded dataset, heads of few channels."""

from mmengine.runner import Runner


def two_images(cfg, folder, pipeline):
    """A batch of two images of the embedded dataset in ``folder``, through a pipeline."""
    dataset = {**cfg.train_dataloader.dataset, 'data_root': str(folder), 'pipeline': pipeline}
    loader = {
        **cfg.train_dataloader,
        'dataset': dataset,
        'batch_size': 2,
        'num_workers': 0,
        'persistent_workers': False,
    }
    return next(iter(Runner.build_dataloader(loader, seed=0)))


def shrink_mask_rcnn(model, in_channels):
    """Keep the structure of a Mask R-CNN's config, with few channels behind the backbone."""
    model.neck.update(in_channels=list(in_channels), out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = roi_head.mask_roi_extractor.out_channels = 16
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    if 'conv_out_channels' in roi_head.bbox_head:
        roi_head.bbox_head.conv_out_channels = 16
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16)
