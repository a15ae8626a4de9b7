"""Steps of data pipelines that configs name as ``paca_mm.<Step>``."""

import numpy as np
from mmcv.transforms import BaseTransform

from paca_mm.errors import UserError
from paca_mm.registry import TRANSFORMS

from .labels import Labelling, size_fault


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """See that a mask fits its image and the classes: right behind ``LoadAnnotations``.

    A class that the head does not have stops a training on a GPU with an assertion of CUDA's, which
    names nothing. Data without a mask passes.

    Args:
        num_classes: Number of classes. ``tools/train.py`` fills it in from the dataset's classes;
            without it, only the sizes are compared.
        ignore_index: The class that stands for "no label", beside 255.
    """

    def __init__(self, num_classes: int | None = None, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Look at ``gt_seg_map``; nothing is changed.

        Raises:
            UserError: It does not fit; the message names the file and what is wrong.
        """
        labels = results.get('gt_seg_map')
        if labels is None:
            return results
        mask = results.get('seg_map_path', 'the mask')
        if 'img' in results:
            image = results.get('img_path', 'the image')
            if fault := size_fault(image, results['img'].shape[:2], mask, labels.shape):
                raise UserError(str(fault))
        if self.num_classes is not None:
            wrong = (labels >= self.num_classes) & (labels != 255) & (labels != self.ignore_index)
            if wrong.any():
                # Back to the numbers in the file, which the user can look for.
                shift = int(bool(results.get('reduce_zero_label')))
                labelling = Labelling(self.num_classes, bool(shift), ignore_index=self.ignore_index)
                numbers = [n + shift for n in np.unique(labels[wrong]).tolist()]
                raise UserError(str(labelling.no_class(mask, numbers)))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes})'
