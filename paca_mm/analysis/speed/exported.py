"""A contestant as an ONNX file, run by onnxruntime: whatever the model, exported in the same way."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from paca_mm.deploy.runtime import session_of
from paca_mm.errors import UserError

from .steps import Setting, map_sizes

Shape = list[int]

#: The first runs of a session, which are not like the others.
WARM_UP = 2


def onnx_step(
    name: str, model: nn.Module, is_plain: bool, setting: Setting, chosen: Sequence[str]
) -> Callable[[], Any]:
    """Export a model for one size of images, and return what runs the file once.

    Args:
        name: What messages call it.
        model: A classifier, or a head on feature maps.
        is_plain: Whether it is one of these two, and no complete model of a host.
        setting: What it is run on.
        chosen: The variants.

    Raises:
        UserError: The variants or the setting do not go together with it.
    """
    if 'onnx' not in chosen:
        raise UserError(f'{name!r}: int8 is a variant of an exported model: +onnx+int8.')
    if no := {'compile', 'channels_last', 'blocks', 'cp'} & {*chosen}:
        raise UserError(f'{name!r}: an exported model comes without +{no.pop()}; leave it out.')
    if (setting.mode, setting.dtype, setting.device) != ('infer', 'fp32', 'cpu'):
        raise UserError(f'{name!r}: an exported model is measured in inference, fp32, on the CPU.')
    if not is_plain:
        raise UserError(
            f'{name!r}: classifiers and heads are exported here; a complete detector or segmentor '
            'ends in operations of its host.'
        )
    from paca_mm.export.model import deploy
    from paca_mm.export.onnx_file import require_packages

    require_packages('torchscript')
    model.eval().requires_grad_(False)
    if 'plain' not in chosen:
        deploy(model, 'linear' if 'int8' in chosen else 'fast')
    inputs: Tensor | list[Tensor] = setting.images()
    if hasattr(model, 'in_channels') and isinstance(model.in_channels, Sequence):
        inputs = [
            torch.randn(setting.batch, channels, *size)
            for channels, size in zip(
                model.in_channels, map_sizes(setting, len(model.in_channels)), strict=True
            )
        ]
    return Exported(model, inputs, quantise='int8' in chosen)


class Exported:
    """A model as an ONNX file of one size; called, it is run once.

    Args:
        model: In eval mode.
        inputs: Images, or several maps.
        quantise: By eight bits, dynamically.
    """

    def __init__(
        self, model: nn.Module, inputs: Tensor | Sequence[Tensor], quantise: bool = False
    ) -> None:
        from paca_mm.export.onnx_file import exported

        graph = exported(_Single(model).eval(), inputs, ['out'], free=())
        with _file(graph.SerializeToString()) as file:
            if quantise:
                from paca_mm.export.int8 import dynamic

                dynamic(file, file := file.with_name('int8.onnx'))
            self._content = file.read_bytes()
            self._session = session_of(file, torch.get_num_threads())
        given = [inputs] if isinstance(inputs, Tensor) else inputs
        names = [entry.name for entry in self._session.get_inputs()]
        self._feed = {key: x.numpy() for key, x in zip(names, given, strict=True)}

    def __call__(self) -> Any:
        return self._session.run(None, self._feed)

    def nodes(self, rounds: int) -> Iterator[tuple[str, float, list[Shape], Shape]]:
        """What onnxruntime notes of so many runs: of every node its operation, milliseconds, the shapes
        of what goes in (without constants that it has packed), and of what comes out first.
        """
        with _file(self._content) as file:
            prefix = str(file.with_name('nodes'))
            session = session_of(file, torch.get_num_threads(), profile=prefix)
            for _ in range(rounds + WARM_UP):
                session.run(None, self._feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes = [e for e in events if 'output_type_shape' in e.get('args', {})]
        for node in nodes[len(nodes) // (rounds + WARM_UP) * WARM_UP :]:
            given, made = (
                [shape for entry in node['args'][key] for shape in entry.values()]
                for key in ('input_type_shape', 'output_type_shape')
            )
            yield node['args']['op_name'], node['dur'] / 1e3, given, made[0] if made else []


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """A file of this content, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix='paca_mm_onnx_') as folder:
        file = Path(folder, 'model.onnx')
        file.write_bytes(content)
        yield file


class _Single(nn.Module):
    """A model of images, or of a list of maps, with one output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        found = self.model(inputs[0] if len(inputs) == 1 else list(inputs))
        return (found[0] if isinstance(found, tuple) else found,)
