"""What an exported file says about itself: one JSON text among the file's own metadata."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from paca_mm.errors import UserError

#: The entry of ONNX's ``metadata_props``.
KEY = 'paca_mm'

#: Of the fields below; raised when one changes its meaning.
FORMAT = 1


@dataclass
class Meta:
    """The facts of an exported file.

    Attributes:
        task: ``'cls'``, ``'seg'`` or ``'det'``; of a backbone that of its config, ``''`` without one.
        output: ``'logits'``, ``'labels'`` or ``'maps'``.
        version: Of the package that wrote it.
        config: The name of the config.
        row: The published row that the backbone's weights look like, ``'paca_small'`` say; several are
            joined by ``or``, and it is ``''`` for none.
        checkpoint: The file that the weights came from; ``''`` for random ones.
        classes: Names, in the order of the labels.
        palette: Colours, RGB from 0 to 255.
        mean: Per channel, in the order of ``channels``, on pixels from 0 to 255.
        std: Likewise.
        channels: The order of the input's channels, ``'rgb'`` or ``'bgr'``; RGB where the file
            normalises.
        normalises: Whether the input is pixels from 0 to 255, and the file normalises them.
        opset: Of the file's operators; 0 where they are torch's.
        size: Height and width that the file is bound to; None for any.
        multiple: Of which height and width must be multiples.
        pipeline: How an image file becomes the input, as steps of the config; None if the runtime lacks
            one of the config's steps.
        lacks: What it lacks.
        pad: Height and width are padded to a multiple of this, once normalised; 1 for no padding.
        pad_value: With what.
        window: Height, width and their strides, where segmentation is by sliding windows.
        align_corners: How logits are resized.
        threshold: Of a segmentor with one logit.
        probabilities: Whether the softmax of the logits is what the host predicts.
        form: How the graph was written, ``'fast'`` or ``'plain'``.
        exporter: ``'torchscript'`` or ``'dynamo'``; ``'torch.export'`` of a ``.pt2`` file.
        int8: ``''``, ``'dynamic'`` or ``'static'``.
        notes: What else is to be known.
    """

    task: str
    output: str
    version: str = ''
    config: str = ''
    row: str = ''
    checkpoint: str = ''
    classes: list[str] = field(default_factory=list)
    palette: list[list[int]] = field(default_factory=list)
    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    std: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    channels: str = 'rgb'
    normalises: bool = False
    opset: int = 0
    size: list[int] | None = None
    multiple: int = 1
    pipeline: list[dict[str, Any]] | None = None
    lacks: str = ''
    pad: int = 1
    pad_value: float = 0.0
    window: list[int] | None = None
    align_corners: bool = False
    threshold: float = 0.3
    probabilities: bool = True
    form: str = 'plain'
    exporter: str = ''
    int8: str = ''
    notes: list[str] = field(default_factory=list)
    format: int = FORMAT

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, entries: Mapping[str, str], file: str) -> 'Meta':
        """Of the metadata of a file.

        Raises:
            UserError: There is none of ours, or that of a newer version.
        """
        if KEY not in entries:
            raise UserError(
                f'{file} says nothing about its classes and its images: it was not written by '
                'paca-mm export.\n  to fix it: export it again, by paca-mm export CONFIG CHECKPOINT.'
            )
        content = json.loads(entries[KEY])
        if content.get('format', 0) > FORMAT:
            raise UserError(
                f'{file} was written by a newer paca_mm ({content.get("version")}).\n'
                '  to fix it: install the newer paca_mm.'
            )
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in content.items() if name in known})
