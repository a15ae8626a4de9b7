"""What the machinery asks a task."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch.nn as nn
from mmengine.config import Config
from numpy.typing import NDArray
from torch import Tensor

from paca_mm.datasets.faults import Fault
from paca_mm.datasets.glance import Glance
from paca_mm.errors import UserError, some_of
from paca_mm.paths import command_line

from ..data_checks import Head, heads_of
from ..drawing import Look, Pixels


class Task:
    """A task of the hosts. Hosts are imported by its methods only.

    Attributes:
        name: Of its folder in ``configs/``.
        scope: The host, which is the ``default_scope`` of its configs.
        title: In words.
        image_size: Height and width at which its models are counted.
        shapes_config: The config that needs no download.
        shapes_classes: The classes of the embedded dataset for this task.
        headline: The metric that it is judged by, as the host calls it.
        demo_goal: The least that the demo reaches in it.
    """

    name: ClassVar[str]
    scope: ClassVar[str]
    title: ClassVar[str]
    image_size: ClassVar[tuple[int, int]]
    shapes_config: ClassVar[str]
    shapes_classes: ClassVar[tuple[str, ...]]
    headline: ClassVar[str]
    demo_goal: ClassVar[float]

    #: The host's evaluator that keeps all predictions in a pickle file.
    dump_type: ClassVar[str] = 'DumpResults'

    def heads(self, model: Any) -> list[Head]:
        """The parts of a model's settings whose class count must be the dataset's."""
        return heads_of(model)

    def complete_dataset(self, cfg: Config, dataset: dict) -> None:
        """Fill in, in place, what steps of a dataset's pipeline want to know of its classes."""

    def check_dataset(
        self, cfg: Config, dataset: dict, place: str, glance: Glance
    ) -> Iterator[Fault]:
        """Check the files of one dataset, and the model's heads against its classes.

        Args:
            cfg: The config.
            dataset: Settings of a dataset that wraps no other.
            place: Where it stands, ``'train_dataloader.dataset'`` say.
            glance: Which of its files are looked at, and how.

        Yields:
            What is wrong with the data.

        Raises:
            UserError: Something is missing or does not fit, so that there is nothing to look at.
        """
        raise NotImplementedError

    def check_evaluators(self, cfg: Config, place: str, dataset: dict) -> Iterator[Fault]:
        """Check the files that an evaluator names; see :meth:`check_dataset`."""
        yield from ()

    def suit_shapes(self, model: Any) -> None:
        """Suit what a model does in training to the embedded dataset, in place; see ``use_shapes``."""

    def judge_as(self, cfg: Config, evaluator: Any) -> None:
        """Let the embedded dataset be judged by no more than a config's own ``evaluator``, in place."""

    def tta_model(self, model: Any) -> dict[str, Any]:
        """What merges the predictions of an image's views, where a config does not say so.

        Args:
            model: The config of the model.
        """
        raise NotImplementedError

    def tta_pipeline(self, pipeline: Sequence[dict]) -> list[dict]:
        """A pipeline that makes views of an image, where a config has none: it and its mirror image.

        Args:
            pipeline: That of the test without augmentation, of which the last step packs.
        """
        *before, pack = pipeline
        return [*before, views(FLIPS, [pack])]

    def draw_into(self, cfg: Config, folder: str) -> None:
        """Let every tested image be written into a folder, ground truth beside prediction."""
        hook = dict(type='paca_mm.DrawHook', out_dir=folder)
        score_thr = (cfg.default_hooks.get('visualization') or {}).get('score_thr')
        if score_thr is not None:
            hook['score_thr'] = score_thr
        cfg.default_hooks.visualization = hook

    def drawn(self, pixels: Pixels, sample: Any, look: Look, score_thr: float) -> Pixels:
        """An image with a prediction drawn on it.

        Args:
            pixels: The image, (H, W, 3), RGB.
            sample: The prediction.
            look: Names and colours of the classes.
            score_thr: Least score of a detection that is drawn.

        Returns:
            The drawing, RGB, larger than the image where that was small.
        """
        raise NotImplementedError

    def drawn_truth(self, pixels: Pixels, sample: Any, look: Look) -> Pixels | None:
        """The same of the ground truth; None if the sample has none."""
        raise NotImplementedError

    def labelled(self, cfg: Config) -> Iterator[tuple[str, Callable[[], NDArray]]]:
        """The images of a config's datasets whose pixels have labels: the real path of each, and what
        reads its labels, (H, W), 255 for none.
        """
        return iter(())

    #: Why :meth:`label_map` has nothing to give.
    no_label_map: ClassVar[str] = 'the labels of this task are of complete images, not of pixels'

    def label_map(self, sample: Any) -> NDArray | None:
        """The true class of every pixel, (H, W), 255 for none; None if a sample does not have it."""
        return None

    def label_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The names of the numbers in :meth:`label_map`, from the classes of the dataset."""
        return tuple(classes)

    def record(self, sample: Any, classes: Sequence[str], score_thr: float) -> dict[str, Any]:
        """A prediction as plain data."""
        raise NotImplementedError

    def forward(self, model: nn.Module, images: Tensor, meta: Mapping[str, Any]) -> Any:
        """Run a model as its host's ``mode='tensor'`` does.

        Args:
            model: The host's model.
            images: (B, 3, H, W), normalised.
            meta: What a pipeline writes about an image of that size.
        """
        return model(images, mode='tensor')

    def toy_sample(self, model: Any, meta: Mapping[str, Any]) -> Any:
        """Made-up annotations of one image, for a step of training or of prediction."""
        raise NotImplementedError

    def require_path(self, path: str, what: str, place: str, dataset: dict) -> None:
        """A file or folder of a dataset exists.

        Raises:
            UserError: It does not; the message says what is there, and how to go on without it.
        """
        if os.path.exists(path):
            return
        root = (dataset.get('data_root') or os.path.dirname(path)).rstrip('/')
        loader = place.partition('.')[0]
        missing = f'the {what} of {loader} is missing.\n  looked for: {os.path.abspath(path)}\n'
        if os.path.isdir(root) and os.listdir(root):
            raise UserError(
                f'{missing}  {root} holds: {some_of(sorted(os.listdir(root)), 12)}\n'
                f'  to fix it: correct {place}'
                + ('.' if loader.endswith('_evaluator') else ' (or its data_root).')
            )
        named = f'{loader}.dataset.data_root=/path/to/your/data/'
        if loader.endswith('_evaluator'):
            named = f'{place}=/path/to/your/{os.path.basename(path)}'
        link = os.path.islink(root) and not os.path.exists(root)
        raise UserError(
            missing
            + (f'  {root} is a link to {os.readlink(root)}, which does not exist\n' if link else '')
            + f'  to fix it: ln -s /path/to/your/{os.path.basename(root)} {root}\n'
            f'  or name it: --cfg-options {named}\n'
            '  without any download: run the same command with --shapes, or try the embedded '
            f'dataset:\n    {command_line("train", self.shapes_config)}'
        )


#: An image as it is, and mirrored. The first view is the one that drawings show.
FLIPS = [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]


def views(*alternatives: Sequence[dict]) -> dict[str, Any]:
    """The step that makes a view for every combination of alternatives, one taken of each list."""
    return dict(type='TestTimeAug', transforms=[[*steps] for steps in alternatives])


def named(label: int, classes: Sequence[str]) -> dict[str, Any]:
    """A class in a record: its number and its name."""
    return {'label': label, 'class': classes[label] if label < len(classes) else str(label)}
