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
    clip_func: Callable[..., Any]
    _own_step: Callable[..., None]
    _step: dict[str, Any]
    _zero_grad: dict[str, Any]
    _norm: Tensor | None
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
        self._norm = None

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
        numbers = [loss.float().reshape(()) for loss in self.losses]
        if not isinstance(self, (AmpOptimWrapper, ApexOptimWrapper)):  # which look by themselves
            numbers += self._clipped() if self._clips_by_norm() else self._norms()
        numbers = numbers or [torch.zeros(())]
        self.verdict = torch.stack([number.to(numbers[0].device) for number in numbers]).sum()
        all_reduce(self.verdict)
        self._step = kwargs

    def _norms(self) -> list[Tensor]:
        """The sum of the norms of the gradients, a number for each of their types and devices."""
        # Of mmengine's ConfigDict, whose own lookup takes as long as a norm.
        parameters = (dict.get(group, 'params', ()) for group in self.optimizer.param_groups)
        gradients = [p.grad.detach() for some in parameters for p in some if p.grad is not None]
        alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for gradient in gradients:
            dense = gradient.coalesce().values() if gradient.is_sparse else gradient
            alike.setdefault((dense.dtype, dense.device), []).append(dense)
        # Together: two hundred conversions of a number take longer than the norms of a small model.
        return [torch.stack(torch._foreach_norm(group)).float().sum() for group in alike.values()]

    def _clips_by_norm(self) -> bool:
        """Whether the step begins with a norm of all gradients, from which NaN and infinity come out."""
        given = self.clip_grad_kwargs or {}
        return (
            bool(given)
            and self.clip_func is nn.utils.clip_grad_norm_
            and super()._clip_grad.__func__ is OptimWrapper._clip_grad
            and float(given.get('norm_type', 2)) >= 1
            and not given.get('error_if_nonfinite')
        )

    def _clipped(self) -> list[Tensor]:
        """Clip the gradients now, not in the step, so that their norm is found once; returns it."""
        clip = self.clip_func

        def keep(*args: Any, **kwargs: Any) -> None:
            self._norm = clip(*args, **kwargs)  # returns None: nothing is logged before the verdict

        self.clip_func = keep
        try:
            super()._clip_grad()
        finally:
            self.clip_func = clip
        return [] if self._norm is None else [self._norm.float()]

    def _clip_grad(self) -> None:
        """As the base class, which logs the norm; what is clipped already stays."""
        if self._norm is None:
            super()._clip_grad()
        else:
            self.message_hub.update_scalar(f'train/{self.grad_name}', float(self._norm))

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
