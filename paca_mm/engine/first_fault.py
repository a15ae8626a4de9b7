"""What was the first to go wrong in a batch: it is run again, and each module is watched."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from paca_mm.checkpoint.finite import not_finite
from paca_mm.errors import some_of

from .seeds import numbers_kept, random_state, set_random_state


@dataclass(frozen=True)
class Beginning:
    """A batch, and the state of the random numbers before it was trained on."""

    batch: Any
    random_state: tuple[Any, ...]

    @classmethod
    def of(cls, batch: Any) -> 'Beginning':
        return cls(batch, random_state())

    def files(self) -> list[str]:
        """The files of the batch, as its data samples name them."""
        return [str(path) for sample in _samples(self.batch) if (path := sample.get('img_path'))]


def first_fault(model: nn.Module, beginning: Beginning, wrapper: OptimWrapper) -> str:
    """What goes wrong first when a batch is trained on again, in words; ``''`` if nothing does.

    Weights and random numbers stay as they are. Buffers may change, and gradients are gone behind it.

    Args:
        model: Without what wraps it; as it was before the batch.
        beginning: The batch.
        wrapper: Of the training. It takes no step.
    """
    if bad := not_finite(dict(model.named_parameters())):
        return f'the weights themselves: {some_of(bad, 3)}'
    if bad := _bad_images(beginning):
        return f'the image itself: {some_of(bad, 3)}'
    watch = _Watch(model, wrapper)
    with numbers_kept(), watch.modules():
        set_random_state(beginning.random_state)
        # The class's own: the model's may be compiled, and what is compiled is not watched.
        losses: Mapping[str, Any] = type(model).train_step(model, beginning.batch, watch)  # type: ignore
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    wrapper.zero_grad()
    if watch.forward:
        return watch.forward
    if bad := not_finite(losses):
        return f'the loss: {some_of(bad)}'
    if watch.backward:
        return watch.backward
    bad = not_finite(gradients)
    return f'the gradient of {some_of(bad, 3)}' if bad else ''


def _samples(node: Any) -> Iterator[BaseDataElement]:
    """The data samples in a batch, in whatever it is made of."""
    if isinstance(node, BaseDataElement):
        yield node
    elif isinstance(node, (Mapping, list, tuple)):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _samples(child)


def _tensors(node: Any) -> Iterator[Tensor]:
    """The tensors of floating-point numbers in what a module takes or returns."""
    if isinstance(node, Tensor):
        if node.is_floating_point():
            yield node
    elif isinstance(node, (Mapping, list, tuple)):
        for child in node.values() if isinstance(node, Mapping) else node:
            yield from _tensors(child)


def _is_finite(node: Any) -> bool:
    return not not_finite({str(i): tensor for i, tensor in enumerate(_tensors(node))})


def _bad_images(beginning: Beginning) -> list[str]:
    """The images of a batch that hold a NaN or an infinity."""
    inputs = beginning.batch.get('inputs') if isinstance(beginning.batch, Mapping) else None
    if not isinstance(inputs, (list, tuple, Tensor)):
        return []
    files = beginning.files()
    names = files if len(files) == len(inputs) else [f'no. {i + 1}' for i in range(len(inputs))]
    return [name for name, image in zip(names, inputs, strict=True) if not _is_finite(image)]


class _Watch:
    """Looks at the outputs of all modules of a model, then at the gradients that come back to them.

    To the model it is the optimizer wrapper of its training step.

    Args:
        model: The model.
        wrapper: The optimizer wrapper of the training.

    Attributes:
        forward: The first that is not finite on the way to the loss, in words.
        backward: And on the way back.
    """

    def __init__(self, model: nn.Module, wrapper: OptimWrapper) -> None:
        self.model = model
        self.wrapper = wrapper
        self.forward = self.backward = ''

    def optim_context(self, model: nn.Module) -> AbstractContextManager:
        return self.wrapper.optim_context(model)

    def update_params(self, loss: Tensor, *_: Any, **__: Any) -> None:
        loss.backward()

    @contextmanager
    def modules(self) -> Iterator[None]:
        handles = [
            module.register_forward_hook(
                partial(self._see_output, f'{name} ({type(module).__name__})')
            )
            for name, module in self.model.named_modules()
            if name
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self.forward:
            return
        if not _is_finite(output):
            self.forward = f'the {"output" if _is_finite(args) else "input"} of {name}'
            return
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(partial(self._see_gradient, name))

    def _see_gradient(self, name: str, gradient: Tensor) -> None:
        if not self.backward and not _is_finite(gradient):
            self.backward = f'the gradient of the output of {name}'
