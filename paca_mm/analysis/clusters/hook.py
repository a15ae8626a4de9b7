"""The clusters of a model while it trains."""

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from paca_mm.analysis.cluster_maps import clustering_backbone
from paca_mm.checkpoint.load import unwrapped
from paca_mm.engine.drawing import Look
from paca_mm.errors import UserError
from paca_mm.files import distinct_stems
from paca_mm.registry import HOOKS


@HOOKS.register_module()
class ClusterVisualizationHook(Hook):
    """Draws the clusters of a few images while a model trains, by the process of rank 0.

    The sheets are those of ``paca-mm clusters``: every stage with the clusters that are read most, and
    the classes of a head that has one cluster for each. They go to the config's visualizer, and so to
    all of its ``vis_backends``: files in ``vis_data/vis_image``, TensorBoard, WandB. The first ones are
    drawn before the training. The weights, the random numbers and the statistics of the norms stay as
    they are.

    Args:
        interval: Draw every so many epochs, or iterations where a training counts these; 0 draws nothing
            and costs nothing.
        num_images: How many images of the validation set, spread evenly over it.
        top: How many clusters of every stage.
        dpi: Of a sheet, which is 7.2 inches wide.

    Raises:
        UserError: An argument is out of its range. Before the first step: the model has no clusters,
            there is no validation set, or the parameters are spread over the processes.
    """

    priority = 'VERY_LOW'

    def __init__(
        self, interval: int = 0, num_images: int = 2, top: int = 3, dpi: int = 100
    ) -> None:
        if interval < 0:
            raise UserError(f'interval={interval} of ClusterVisualizationHook must be 0 or more.')
        for name, value in (('num_images', num_images), ('top', top), ('dpi', dpi)):
            if value < 1:
                raise UserError(f'{name}={value} of ClusterVisualizationHook must be 1 or more.')
        self.interval = interval
        self.num_images = num_images
        self.top = top
        self.dpi = dpi
        self._samples: list[dict[str, Any]] = []
        self._by_epoch = True

    def before_train(self, runner: Any) -> None:
        """Look for what would stop the drawing, load the images, and draw the first sheets."""
        if not self.interval:
            return
        self._by_epoch = not isinstance(runner.train_loop, IterBasedTrainLoop)
        clustering_backbone(runner.model)
        # By its name: not every build of torch has it.
        if any(kind.__name__ == 'FullyShardedDataParallel' for kind in type(runner.model).__mro__):
            raise UserError(
                'ClusterVisualizationHook runs the model in one process, but its parameters are spread '
                'over all of them (FSDP).\n  to fix it: interval=0, and paca-mm clusters with the '
                'checkpoints of the run.'
            )
        if runner.val_loop is None:
            raise UserError(
                'ClusterVisualizationHook draws images of the validation set, but this config has no '
                'val_dataloader.\n  to fix it: interval=0, or a val_dataloader with val_cfg and '
                'val_evaluator.'
            )
        if is_main_process():
            dataset = runner.val_dataloader.dataset
            count = min(self.num_images, len(dataset))
            self._samples = [dataset[i * len(dataset) // count] for i in range(count)]
            self.draw(runner, runner.iter)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Draw, where a training counts iterations."""
        if self._samples and not self._by_epoch and self.every_n_train_iters(runner, self.interval):
            self.draw(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """Draw, where a training counts epochs."""
        if self._samples and self._by_epoch and self.every_n_epochs(runner, self.interval):
            self.draw(runner, runner.iter)

    def draw(self, runner: Any, step: int) -> None:
        """Draw every image with the weights of now, after so many iterations."""
        from . import sheets
        from .seen import see

        model = unwrapped(runner.model)
        look = Look.of(getattr(runner.val_dataloader.dataset, 'metainfo', None) or {})
        was_training = model.training
        model.eval()
        try:
            files = [
                getattr(sample['data_samples'], 'img_path', None) or str(i)
                for i, sample in enumerate(self._samples)
            ]
            for sample, name in zip(self._samples, distinct_stems(files), strict=True):
                with torch.no_grad():
                    seen = see(model, sample, name, look)
                weights = f'after {step} iterations'
                figures = {'clusters': sheets.overview(seen, self.top, weights)}
                if seen.classes is not None:
                    figures['classes'] = sheets.class_sheet(seen, weights)
                for kind, figure in figures.items():
                    pixels = sheets.pixels_of(figure, self.dpi)
                    runner.visualizer.add_image(f'{kind}_{name}', pixels, step)
        finally:
            model.train(was_training)
