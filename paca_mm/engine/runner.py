"""mmengine's Runner, which never loses what it saved and never runs what it loads."""

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.load import fit_whole, unwrapped
from paca_mm.checkpoint.run import check_optimizer, check_run
from paca_mm.files import replacing
from paca_mm.models.common.norms import convert_sync_batchnorm
from paca_mm.processes import attended
from paca_mm.registry import RUNNERS

from .dry_run import dry_run
from .loading import MAX_SKIPPED, SkippedFiles, naming_files, skipping_files
from .lock import held
from .newest import go_on_from_newest
from .resume import VALIDATED, Place, keep_gradients, restore_gradients
from .room import PATIENCE, fallback_folder, forgive_curves, forgive_log, save_somewhere
from .seeds import seed_generators, seeding
from .stopping import StopHook, released


@RUNNERS.register_module()
class SafeRunner(Runner):
    """A Runner with safe files (``runner_type='paca_mm.SafeRunner'``).

    * A checkpoint appears under its name only when it is complete, so a kill while saving leaves the
      one before it. Where there is no room for it, it goes to ``fallback_dir``, or waits for
      ``wait_for_room`` minutes (5 by default); logs are then left out.
    * A resumed run goes on with the very numbers that the killed one would have had, from any step:
      what is drawn depends on the run's seed and the number of the sample or step, not on what was
      drawn before (see :mod:`.seeds`), whatever the number of workers. It goes on in the middle of an
      epoch, and begins with the validation that was due. Its seed is the checkpoint's.
    * What is validated is what is saved, also where every process has BatchNorm statistics of its own.
    * A file that cannot be read while training is named and another image takes its place, for at most
      ``max_skipped`` files (10 by default); then the run stops with the list.
    * Loading calls nothing that the file names, and says what became of every key. Where all keys
      are needed (testing, resuming) a missing one is an error.
    """

    model: Any
    _place: Place | None = None  # in the data, once there is a train loop
    _resumed: dict[str, Any] | None = None  # the checkpoint, until its place is found
    _needs_all = False
    _read: tuple[str, Any] | None = None
    skipped: SkippedFiles | None = None
    saved_in = ''  # where the last checkpoint went

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, without the three lines for every parameter under ``paramwise_cfg``."""
        logger = super().build_logger(*args, **kwargs)
        logger.addFilter(lambda record: not record.getMessage().startswith('paramwise_options'))
        return forgive_log(logger)

    def build_visualizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class; curves that cannot be written do not end the run."""
        return forgive_curves(super().build_visualizer(*args, **kwargs), self.logger)

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """As the base class; None turns off every hook of a config, also one mmengine does not know."""
        own = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
        given = (hooks or {}).items()
        super().register_default_hooks({k: v for k, v in given if v is not None or k in own})

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict,
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """As the base class; a file that cannot be read is named, every sample has its own numbers."""
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        return naming_files(attended(seeding(loader, seed or 0)))

    def build_train_loop(self, loop: Any) -> Any:
        """As the base class; up to ``max_skipped`` files that cannot be read are passed over."""
        built: Any = super().build_train_loop(loop)
        self.skipped = skipping_files(built.dataloader, self.cfg.get('max_skipped', MAX_SKIPPED))
        self._train_loop = built
        self._place = Place(self)
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
        """Save atomically, with the place in the data in ``meta``; see the base class.

        Raises:
            CannotWrite: There was no room, in ``fallback_dir`` either.
        """
        meta = {} if meta is None else meta
        if self._place:
            by_epoch = kwargs.get('by_epoch', True)
            epoch = meta.get('epoch', self.epoch + by_epoch)
            meta['data'] = self._place.record(epoch, meta.get('iter', self.iter + (not by_epoch)))
        folder, self.saved_in = str(out_dir), ''
        save = super().save_checkpoint
        if '://' in folder or kwargs.get('backend_args') or not is_main_process():
            save(folder, filename, *args, meta=meta, **kwargs)
            self.saved_in = folder
            return

        def save_in(place: str) -> None:
            with replacing(os.path.join(place, filename), '--work-dir') as part:
                save(place, part.name, *args, meta=meta, **kwargs)

        self.saved_in = save_somewhere(
            save_in,
            folder,
            fallback_folder(self.cfg, self.work_dir),
            self.cfg.get('wait_for_room', PATIENCE),
            given_up=lambda: any(hook.told for hook in self.hooks if isinstance(hook, StopHook)),
            warn=self.logger.warning,
        )

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
            if hasattr(self.optim_wrapper, 'state_dict'):  # it is built
                check_optimizer(content['optimizer'], self.optim_wrapper.state_dict(), filename)
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
            self._resumed = checkpoint
        return checkpoint

    def take(self, filename: str | os.PathLike, content: Any) -> None:
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
        found = super().test()
        self._end_workers()
        return found

    def val(self) -> dict:
        """Validate; a checkpoint must fill the complete model."""
        self._needs_all = True
        found = super().val()
        self._end_workers()
        return found

    def train(self) -> Any:
        """Train, as the one run of the work directory; ``resume=True`` without ``load_from`` goes on
        from the newest good checkpoint. What is wrong in the config is found before the first step.
        """
        alone = held(self.work_dir) if is_main_process() else nullcontext()
        with alone, released(self.hooks):
            if self._resume and self._load_from is None:
                go_on_from_newest(self)
            if self._resume:
                self._keep_seed()
            dry_run(self)
            model = super().train()
            self._end_workers()
            return model

    def _end_workers(self) -> None:
        """End the worker processes of the data loaders.

        Persistent ones would live on as long as the runner; and left to the garbage collector, which may
        free their queues first, each would be waited for five seconds.
        """
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            if isinstance(loader := getattr(loop, 'dataloader', None), DataLoader):
                loader._iterator = None
            if hasattr(loop, 'dataloader_iterator'):
                loop.dataloader_iterator = _BegunLater(loop.dataloader)

    def _keep_seed(self) -> None:
        """Take the seed of the checkpoint before data loaders are built, which draw by it.

        mmengine takes it over later, when the order of the data is drawn.
        """
        name, content = self._read or ('', None)
        if name != os.path.abspath(self._load_from):
            content = read_checkpoint(self._load_from)
            self.take(self._load_from, content)
        meta = content.get('meta') if isinstance(content, Mapping) else None
        seed = meta.get('seed') if isinstance(meta, Mapping) else None
        given = self._randomness_cfg.get('seed')
        if seed is None or seed == given:
            return
        if given is not None:
            self.logger.warning(f'resuming: the seed stays {seed}, not {given} as in the config.')
        self._randomness_cfg['seed'] = seed
        self.set_randomness(**self._randomness_cfg)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks, with the random numbers of the step in place, and keep count of the data."""
        if fn_name in ('before_train_epoch', 'before_train_iter', 'before_val'):
            number = self.iter if self._place else 0  # which would build a train loop
            seed_generators(fn_name, self.seed, number, devices=True)
        if fn_name == 'before_val' and get_world_size() > 1:
            for buffer in self.model.buffers():
                broadcast(buffer)  # of the process that saves
        if fn_name == 'after_val_epoch' and self._place:
            self.message_hub.update_info(VALIDATED, self.iter)
        if fn_name == 'before_save_checkpoint':
            keep_gradients(self, kwargs['checkpoint'])
        if fn_name == 'before_run':
            self._before_run(kwargs)
        else:
            super().call_hook(fn_name, **kwargs)
        if self._place:
            self._keep_place(self._place, fn_name)

    def _keep_place(self, place: Place, fn_name: str) -> None:
        if fn_name == 'before_train' and self._resumed is not None:
            checkpoint, self._resumed = self._resumed, None
            restore_gradients(self, checkpoint)
            place.go_on(checkpoint)
        elif fn_name == 'before_train_epoch':
            place.enter_epoch()
        elif fn_name == 'after_train_epoch':
            place.leave_epoch()

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


class _BegunLater(_InfiniteDataloaderIterator):
    """An iteration loop's batches without end; no worker starts before the first is asked for."""

    def __init__(self, loader: DataLoader) -> None:
        self._dataloader, self._iterator, self._epoch = loader, iter(()), 0


def _as_mmengine_saves(content: Any) -> dict[str, Any]:
    """What a checkpoint holds beside weights, be it bare, of other names, or mmengine's own.

    Hooks ask it for ``meta`` and ``state_dict`` without looking whether they are there.
    """
    others = {k: v for k, v in content.items() if not isinstance(v, torch.Tensor)}
    return {'meta': {}, **{k: v for k, v in others.items() if k != 'ema_state_dict'}}
