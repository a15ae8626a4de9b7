"""Which checkpoint of its work directory a run goes on from: the newest good one that is its own."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner

from paca_mm.checkpoint.latest import read_latest
from paca_mm.checkpoint.load import compare, differences, fit_whole, unwrapped
from paca_mm.checkpoint.run import check_run
from paca_mm.errors import UserError, some_of

from .data_checks import classes_of, datasets_of
from .distributed import say
from .room import fallback_folder


def go_on_from_newest(runner: Runner) -> None:
    """Let a run that is built, and not yet started, go on from the newest good checkpoint.

    Whatever cannot be read, is no checkpoint of a run, is of another model or other classes, or holds
    numbers that are not finite, is passed over, with a line in the log. The first process looks; the
    others take what it has found. Where the config gives no seed, the run takes that of the checkpoint.

    Without any checkpoint the run starts from the beginning.

    Args:
        runner: The run.

    Raises:
        UserError: There are checkpoints, and none of them is good: a new run would replace them.
    """
    content: Any = None
    answer: list[Any] = [None]
    if is_main_process():
        elsewhere = fallback_folder(runner.cfg, runner.work_dir)  # where one went for lack of room
        check = partial(check_own, runner)
        latest = read_latest(runner.work_dir, check, [elsewhere] if elsewhere else ())
        content = latest.content
        seed = content['meta'].get('seed') if content else None
        answer = [(latest.file, latest.refused, latest.odd, seed)]
    broadcast_object_list(answer)
    file, refused, odd, seed = answer[0]
    for line in [odd, *refused] if odd else refused:
        runner.logger.warning(f'passed over: {line}')
    if file is None and refused:
        raise UserError(
            f'none of the checkpoints in {runner.work_dir} can be resumed:\n  '
            + '\n  '.join(refused)
            + '\n  to fix it: the config that they were trained with; for a new run, another --work-dir '
            '(or no --resume, which replaces them).'
        )
    runner._resume = file is not None
    if file is None:
        say(f'note: nothing to resume in {runner.work_dir}: starting from the beginning')
        return
    say(f'note: going on from {file}')
    runner._load_from = str(file)
    if content is not None and hasattr(runner, 'take'):
        runner.take(str(file), content)
    take_seed(runner, seed)


def take_seed(runner: Runner, seed: int | None) -> None:
    """Let a run draw by the seed of its checkpoint, where the config gives none.

    mmengine takes it over too, but only once the data's order is drawn.
    """
    if seed is not None and runner._randomness_cfg.get('seed') is None:
        runner._randomness_cfg.update(seed=seed)
        runner.set_randomness(**runner._randomness_cfg)


def check_own(runner: Runner, content: Any, file: Path) -> None:
    """A checkpoint is of a run of this config: its model, its classes. The schedule may be another.

    Raises:
        UserError: It is not, or cannot be resumed at all.
    """
    check_run(content, file)
    fitted = fit_whole(runner.model, content, file, strict=True)
    fitted.averages(content)
    # Weights alone may be brought to another size; the optimizer's numbers of them may not.
    _, _, misfits = compare(unwrapped(runner.model).state_dict(), content['state_dict'])
    if misfits or fitted.report.unexpected:
        raise UserError(
            f'{file} is not for this model.\n{differences((), misfits, fitted.report.unexpected)}'
        )
    trained, expected = _classes_in(content['meta']), _classes_of(runner.cfg)
    if trained and expected and trained != expected:
        raise UserError(
            f'{file} was trained on the classes {some_of(trained)}; the config has {some_of(expected)}.'
        )


def _classes_in(meta: Mapping) -> tuple[str, ...]:
    """The classes that a checkpoint was trained on, where it says so."""
    dataset = meta.get('dataset_meta')
    classes = dataset.get('classes') if isinstance(dataset, Mapping) else None
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()


def _classes_of(cfg: Any) -> tuple[str, ...]:
    """The classes that the config itself gives its training; a dataset's own may not be known yet."""
    loader = cfg.get('train_dataloader')
    given = {
        classes_of(dataset, place) or ()
        for dataset, place in datasets_of(loader, 'train_dataloader')
        if (dataset.get('metainfo') or {}).get('classes') is not None
    }
    return tuple(map(str, given.pop())) if len(given) == 1 else ()
