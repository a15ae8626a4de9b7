"""Writing ONNX: either of torch's exporters, then what the file says about itself."""

import importlib
import inspect
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor

from paca_mm.deploy.meta import KEY, Meta
from paca_mm.deploy.runtime import session_of
from paca_mm.errors import UserError
from paca_mm.files import replacing

EXPORTERS = ('torchscript', 'dynamo')

#: LayerNorm is one operator from 17 on; the graph exporter of torch writes 18.
OPSETS = {'torchscript': 17, 'dynamo': 18}

_NEEDS = {'torchscript': ('onnx',), 'dynamo': ('onnx', 'onnxscript')}


def require_packages(exporter: str) -> None:
    """See that what an exporter needs can be imported, and that this torch has it.

    Raises:
        UserError: The message has the line of pip.
    """
    for package in (*_NEEDS[exporter], 'onnxruntime'):
        try:
            importlib.import_module(package)
        except ImportError as e:
            raise UserError(
                f'the export needs {package}, which cannot be imported ({e}).\n'
                f'  to fix it: pip install {" ".join((*_NEEDS[exporter], "onnxruntime"))}'
            ) from e
    if exporter == 'dynamo' and not _has_dynamo():
        raise UserError(
            f'torch {torch.__version__} has no exporter by torch.export (torch.onnx.export with '
            'dynamo=True).\n  to fix it: --exporter torchscript.'
        )


def _has_dynamo() -> bool:
    return 'dynamo' in inspect.signature(torch.onnx.export).parameters


def exported(
    module: nn.Module,
    example: Tensor | Sequence[Tensor],
    names: Sequence[str],
    exporter: str = 'torchscript',
    opset: int | None = None,
    free: Sequence[int] = (0, 2, 3),
) -> Any:
    """The graph of a module, an ``onnx.ModelProto``.

    Args:
        module: In eval mode, images in, a tuple of tensors out; or feature maps, one after the other.
        example: Images (B, C, H, W), or several maps; B is 2 or more where it is to be free.
        names: Of the outputs.
        exporter: Of :data:`EXPORTERS`.
        opset: Of the operators; of :data:`OPSETS` by default.
        free: The axes of the input that may be others than the example's: 0, 2 and 3, or fewer.

    Raises:
        UserError: An operator is lacking in the opset, or torch does not know the opset.
    """
    import onnx

    opset = opset or OPSETS[exporter]
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    given = ['image'] if isinstance(example, Tensor) else [f'map{i}' for i in range(len(inputs))]
    options: dict[str, Any] = dict(
        input_names=given, output_names=list(names), opset_version=opset, verbose=False
    )
    words = {0: 'batch', 2: 'height', 3: 'width'}
    axes = {axis: words[axis] for axis in free}
    with torch.no_grad(), _quiet(), _explained(exporter, opset):
        if exporter == 'dynamo':
            dims = {axis: torch.export.Dim(name, max=2**15) for axis, name in axes.items()}
            shapes = tuple(dims for _ in inputs)
            program: Any = torch.onnx.export(
                module, inputs, dynamo=True, dynamic_shapes=shapes, **options
            )
            model = program.model_proto
        else:
            buffer = io.BytesIO()
            outputs = zip(names, module(*inputs), strict=True)
            named = dict.fromkeys(given, axes) | {n: _axes_of(t, free) for n, t in outputs}
            extra = dict(dynamo=False) if _has_dynamo() else {}
            torch.onnx.export(
                module, inputs, buffer, dynamic_axes=named if axes else None, **options, **extra
            )
            model = onnx.load_model_from_string(buffer.getvalue())
    found = next((o.version for o in model.opset_import if o.domain in ('', 'ai.onnx')), 0)
    if found != opset:
        raise UserError(
            f'--opset {opset}: the exporter wrote opset {found} instead, because an operator of this '
            f'model cannot be written in opset {opset}.\n  to fix it: --opset {found}.'
        )
    _strip(model)
    return model


def _axes_of(output: Tensor, free: Sequence[int]) -> dict[int, str]:
    """The axes of an output that may vary: the batch, and the sides of a map."""
    sides = range(1, 3) if output.ndim == 3 else range(2, output.ndim)
    return {
        **({0: 'batch'} if 0 in free else {}),
        **({i: f'side{i}' for i in sides} if 2 in free else {}),
    }


def _strip(model: Any) -> None:
    """Leave out what tells of the machine that exported: the lines of code behind every node."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            node.doc_string = ''
            if hasattr(node, 'metadata_props'):
                del node.metadata_props[:]
        for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
            if hasattr(value, 'metadata_props'):
                del value.metadata_props[:]
        if hasattr(graph, 'metadata_props'):
            del graph.metadata_props[:]


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField('g'):
                yield from _graphs(attribute.g)


def save(model: Any, meta: Meta, file: str | os.PathLike) -> None:
    """Write a graph with what it says about itself; the file appears complete or not at all.

    Raises:
        CannotWrite: The system refuses it.
    """
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, meta.text()
    model.doc_string = (
        f'{meta.row or meta.config}: {meta.task}, {meta.output}; written by paca_mm {meta.version}'
    )
    with replacing(file, '--out') as part:
        part.write_bytes(model.SerializeToString())


def runner(
    file: str | os.PathLike, threads: int | None = None
) -> Callable[[Tensor], list[NDArray[Any]]]:
    """What runs a file: images (B, C, H, W) -> its outputs; see :func:`.session_of`."""
    session = session_of(file, threads)
    return lambda images: session.run(None, {session.get_inputs()[0].name: images.numpy()})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on constants and on themselves; what matters is checked after."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _explained(exporter: str, opset: int) -> Iterator[None]:
    """An operator that is lacking becomes one message; any other error stays."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        words = _chain(e)
        lines = [line.strip() for text in words for line in text.splitlines()]
        lacking = next((line for line in lines if _says_lacking(line)), None)
        if lacking is None:
            raise
        raise UserError(
            f'--opset {opset} with the {exporter} exporter: {lacking}\n'
            f'  to fix it: another --opset ({OPSETS[exporter]} is the default), or another '
            f'--exporter ({", ".join(EXPORTERS)}).'
        ) from e


def _chain(error: BaseException | None) -> list[str]:
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__ or error.__context__
    return words


def _says_lacking(line: str) -> bool:
    return (
        ('operator' in line and 'not supported' in line)
        or ('opset' in line.lower() and 'support' in line)
        or 'No ONNX function found' in line
        or 'No decompositions registered' in line
    )
