"""An optimizer's step that waits until somebody has looked at the loss and the gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper, OptimWrapper
from torch import Tensor, nn

#: Mixed precision has failed when it leaves out so many steps in a row, or scales by so little: from
#: its first scale, 2**16, thirty halvings lead below it.
MOST_OVERFLOWS, LEAST_SCALE = 30, 1e-4


class WaitingStep(OptimWrapper):
    """An optimizer wrapper that notes its step, to be taken or left out later; see :meth:`install`.

    Attributes:
        verdict: A number that is finite if loss and gradient of the step are, in all processes. None
            while no step waits.
        losses: Those of the step so far, a number for each batch.
    """

    verdict: Tensor | None
    losses: list[Tensor]
    _own_step: Callable[..., None]
    _step: dict[str, Any]
    _zero_grad: dict[str, Any]
    _overflows: int
    _stepped: bool

    @classmethod
    def install(cls, wrapper: OptimWrapper) -> 'WaitingStep':
        """Let a wrapper, of whatever class, be one of these too."""
        if not isinstance(wrapper, cls):
            kind, own_step = type(wrapper), wrapper.step
            vars(wrapper).pop('step', None)  # a scheduler puts its counter around it, on the object
            wrapper.__class__ = type(kind.__name__, (cls, kind), {})
            assert isinstance(wrapper, cls)
            wrapper._own_step = own_step
            if hasattr(wrapper, 'loss_scaler'):  # which may leave a step out by itself
                wrapper.optimizer.register_step_post_hook(wrapper._note_step)
        wrapper._overflows = 0
        wrapper._forget()
        return wrapper

    def _forget(self) -> None:
        self.verdict = None
        self.losses = []
        self._step, self._zero_grad = {}, {}

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As the base class. In a loop that calls no hooks, nobody has looked: the step is taken."""
        if self.verdict is not None:
            self.take()
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """As the base class; the loss is kept."""
        self.losses.append(loss.detach())
        super().backward(loss, **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Note that a step is due, and reach the verdict.

        It is the sum of all that must be finite: NaN and infinity outlast every sum, over numbers
        and over processes.
        """
        numbers = list(self.losses)
        if not isinstance(self, (AmpOptimWrapper, ApexOptimWrapper)):  # which look by themselves
            numbers += _norms(self.optimizer)
        numbers = numbers or [torch.zeros(())]
        device = numbers[0].device
        self.verdict = torch.stack([n.to(device, torch.float32).reshape(()) for n in numbers]).sum()
        all_reduce(self.verdict)
        self._step = kwargs

    vars()['step']._with_counter = True  # to schedulers: those that take part in it are counted

    def zero_grad(self, **kwargs: Any) -> None:
        """As the base class, but behind a step that waits."""
        if self.verdict is None:
            super().zero_grad(**kwargs)
        else:
            self._zero_grad = kwargs

    def take(self) -> None:
        """Take the step that waits."""
        self._stepped = False
        self._own_step(**self._step)
        if hasattr(self, 'loss_scaler'):
            self._overflows = 0 if self._stepped else self._overflows + 1
        self.leave_out()

    def leave_out(self) -> None:
        """Forget the step that waits, and its gradient."""
        super().zero_grad(**self._zero_grad)
        self._forget()

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def failure(self) -> str:
        """How mixed precision has failed, if it has; ``''`` otherwise."""
        scale = self.loss_scaler.get_scale() if hasattr(self, 'loss_scaler') else 1.0
        if self._overflows <= MOST_OVERFLOWS and scale >= LEAST_SCALE:
            return ''
        return (
            f'the gradient overflows in mixed precision, whatever the loss is scaled by: {scale:g} now, '
            f'and {self._overflows} steps in a row were left out'
        )


def _norms(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The norm of each gradient."""
    parameters = (p for group in optimizer.param_groups for p in group['params'])
    gradients = [p.grad.detach() for p in parameters if p.grad is not None]
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    return list(torch._foreach_norm(dense)) if dense else []
