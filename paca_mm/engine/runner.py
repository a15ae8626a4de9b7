"""mmengine's Runner, which never loses what it saved and never runs what it loads."""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast, get_world_size
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.load import fit_whole, unwrapped
from paca_mm.checkpoint.run import check_run
from paca_mm.files import move_into_place
from paca_mm.models.common.norms import convert_sync_batchnorm
from paca_mm.registry import RUNNERS

from .loading import MAX_SKIPPED, SkippedFiles, naming_files, skipping_files
from .newest import go_on_from_newest


@RUNNERS.register_module()
class SafeRunner(Runner):
    """A Runner with safe files (``runner_type='paca_mm.SafeRunner'``).

    * A checkpoint appears under its name only when it is complete, so a kill while saving leaves the
      one before it.
    * It carries the state of the random number generators: a resumed run of one process goes on with
      the numbers that the killed one would have had, to the bit where ``num_workers=0``. (Workers
      may draw other crops and flips; the order of the images stays.)
    * What is validated is what is saved, also where every process has BatchNorm statistics of its own.
    * A file that cannot be read while training is named and another image takes its place, for at most
      ``max_skipped`` files (10 by default); then the run stops with the list.
    * Loading calls nothing that the file names, and says what became of every key. Where all keys
      are needed (testing, resuming) a missing one is an error.
    """

    model: Any
    _random_state: dict | None = None
    _needs_all = False
    _read: tuple[str, Any] | None = None
    skipped: SkippedFiles | None = None

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, without the three lines for every parameter under ``paramwise_cfg``."""
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(lambda record: not record.getMessage().startswith('paramwise_options'))
        return logger

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict,
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """As the base class; a file that cannot be read is named, and iterators draw no seeds from
        the model's numbers.

        They would with every validation, which a run that is resumed behind it does not repeat.
        """
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        if loader.generator is None:
            loader.generator = torch.Generator().manual_seed(seed or 0)
        return naming_files(loader)

    def build_train_loop(self, loop: Any) -> Any:
        """As the base class; up to ``max_skipped`` files that cannot be read are passed over."""
        built: Any = super().build_train_loop(loop)
        self.skipped = skipping_files(built.dataloader, self.cfg.get('max_skipped', MAX_SKIPPED))
        return built

    def wrap_model(self, model_wrapper_cfg: dict | None, model: Any) -> Any:
        """As the base class; under ``sync_bn`` a norm that is more than BatchNorm converts itself."""
        kind = self.cfg.get('sync_bn')
        if not self.distributed or kind is None or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        self.cfg.sync_bn = None
        try:
            return super().wrap_model(model_wrapper_cfg, convert_sync_batchnorm(model, kind))
        finally:
            self.cfg.sync_bn = kind

    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Save atomically, with the random state in ``meta``; see the base class."""
        meta = {} if meta is None else meta
        meta['random_state'] = _get_random_state()
        local = '://' not in str(out_dir) and not kwargs.get('backend_args')
        part = f'.{filename}.part' if local else filename
        super().save_checkpoint(out_dir, part, *args, meta=meta, **kwargs)
        if local and os.path.isfile(os.path.join(out_dir, part)):  # only rank 0 has written
            move_into_place(os.path.join(out_dir, part), os.path.join(out_dir, filename))

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = False,
        revise_keys: Any = None,
    ) -> Any:
        """Load a checkpoint into the model; every key is needed to test or to resume.

        Raises:
            UserError: The file cannot be read, or does not fit the model.
        """
        content = self._taken(filename, map_location)
        if self._resume:
            check_run(content, filename)
        needs_all = strict or self._needs_all or self._resume
        fitted = fit_whole(self.model, content, filename, strict=needs_all)
        checkpoint = _as_mmengine_saves(content)
        checkpoint['state_dict'] = fitted.complete()
        if averages := fitted.averages(content):
            checkpoint['ema_state_dict'] = averages
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)  # EMA may exchange the two
        self.logger.info(fitted.load(checkpoint['state_dict']))
        self._has_loaded = True
        if self._resume:
            self._random_state = checkpoint.get('meta', {}).get('random_state')
        return checkpoint

    def take(self, filename: str, content: Any) -> None:
        """Take over what was read of a checkpoint on the CPU, so that it is not read again."""
        self._read = (os.path.abspath(filename), content)

    def _taken(self, filename: str, map_location: str | Callable) -> Any:
        (name, content), self._read = self._read or ('', None), None
        if name == os.path.abspath(filename) and map_location == 'cpu':
            return content
        return read_checkpoint(filename, map_location)

    def test(self) -> dict:
        """Test; a checkpoint must fill the complete model."""
        self._needs_all = True
        return super().test()

    def val(self) -> dict:
        """Validate; a checkpoint must fill the complete model."""
        self._needs_all = True
        return super().val()

    def train(self) -> Any:
        """Train; ``resume=True`` without ``load_from`` goes on from the newest good checkpoint."""
        if self._resume and self._load_from is None:
            go_on_from_newest(self)
        return super().train()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; put the resumed random state and the validated statistics in place."""
        if fn_name == 'before_val' and get_world_size() > 1:
            for buffer in self.model.buffers():
                broadcast(buffer)  # of the process that saves
        if fn_name == 'before_run':
            self._before_run(kwargs)
        else:
            super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_train' and self._random_state is not None:
            if get_world_size() == 1:
                self._restore(self._random_state)
            self._random_state = None

    def _before_run(self, kwargs: dict[str, Any]) -> None:
        """Call the hooks; those that keep the model (EMA) are shown it without augmentation around it.

        mmengine's would average the wrapper, whose names are not those of a checkpoint.
        """
        around, inner = self.model, unwrapped(self.model)
        if any(isinstance(m, BaseTTAModel) for m in around.modules()):
            self.model = inner
        try:
            super().call_hook('before_run', **kwargs)
        finally:
            if self.model is inner:
                self.model = around

    def _restore(self, state: dict[str, Any]) -> None:
        _set_random_state(state)
        loop: Any = self.train_loop
        batches = getattr(loop, 'dataloader_iterator', None)
        # Classic mmengine loads what was trained on once more, and the pipeline draws.
        if batches is not None and not hasattr(batches, 'skip_iter'):
            loop.dataloader_iterator = _restored_behind(batches, loop.iter, state)


def _as_mmengine_saves(content: Any) -> dict[str, Any]:
    """What a checkpoint holds beside weights, be it bare, of other names, or mmengine's own.

    Hooks ask it for ``meta`` and ``state_dict`` without looking whether they are there.
    """
    others = {k: v for k, v in content.items() if not isinstance(v, torch.Tensor)}
    return {'meta': {}, **{k: v for k, v in others.items() if k != 'ema_state_dict'}}


def _restored_behind(batches: Any, count: int, state: dict[str, Any]) -> Iterator[Any]:
    """The batches; the random state is put in place behind the first ``count``."""
    for _ in range(count):
        yield next(batches)
    _set_random_state(state)
    while True:
        yield next(batches)


def _get_random_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    state = {
        'torch': torch.get_rng_state(),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        'python': random.getstate(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state['torch'].cpu())
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
    if 'cuda' in state and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])
