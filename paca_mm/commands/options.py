"""Options that several commands share."""

import argparse
from collections.abc import Sequence
from typing import Any

from paca_mm.errors import UserError

#: What the names of configs and of checkpoints end in.
CONFIGS, CHECKPOINTS = ('.py', '.yml', '.yaml', '.json'), ('.pth', '.pt', '.safetensors', '.ckpt')


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options KEY=VALUE ...``, kept as words; :func:`cfg_options` parses them."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='settings that win over the config, such as train_dataloader.batch_size=4',
    )


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    """``--split``, ``--shapes`` and ``--num-images``: which images of a dataset are measured."""
    parser.add_argument(
        '--split', choices=['val', 'train'], default='val', help='of the dataset (default: val)'
    )
    parser.add_argument(
        '--shapes', action='store_true', help='the embedded dataset (made on first use)'
    )
    parser.add_argument(
        '--num-images', type=int, default=64, metavar='N', help='how many (default: %(default)s)'
    )


def cfg_options(words: Sequence[str] | None) -> dict[str, Any] | None:
    """The words of ``--cfg-options`` as mmengine's ``DictAction`` understands them.

    Raises:
        UserError: A word is no KEY=VALUE, or its brackets do not match.
    """
    if not words:
        return None
    from mmengine.config import DictAction

    parsed = argparse.Namespace()
    action = DictAction(['--cfg-options'], 'cfg_options', nargs='+')
    for word in words:
        if not word.partition('=')[0].strip() or '=' not in word:
            raise UserError(
                f'--cfg-options {word}: it must be KEY=VALUE.\n'
                '  to fix it: put a value with blanks or brackets into quotes, '
                "such as 'model.head.topk=(1, 5)'."
            )
        name, _, value = word.partition('=')
        if fault := _fault_of(value.strip('\'"').replace(' ', '')):
            raise UserError(f'--cfg-options {name}={value}: {fault}')
        action(argparse.ArgumentParser(), parsed, [word])
    return parsed.cfg_options


def _fault_of(value: str) -> str | None:
    """What ``DictAction`` would stumble over in a value without blanks, or take for a text."""
    for opening, closing in (('(', ')'), ('[', ']')):
        begun, ended = value.count(opening), value.count(closing)
        if begun != ended and (',' in value or value[:1] in '([' or value[-1:] in ')]'):
            return (
                f'{begun} {opening!r} and {ended} {closing!r}.\n'
                '  to fix it: close every bracket, and put the option into quotes.'
            )
    if value.startswith(('dict(', '{')):
        return (
            'a dict cannot be given as one value.\n'
            '  to fix it: an option for each of its parts, such as model.backbone.init_cfg.type=...'
        )
    return None


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that training and testing share, named as in mmdetection's own scripts."""
    parser.add_argument(
        '--shapes',
        action='store_true',
        help='run on the embedded dataset instead of the one in the config (made on first use)',
    )
    parser.add_argument(
        '--work-dir', help='where logs and checkpoints go (default: work_dirs/NAME)'
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )
    # torch's launchers pass it; the rank itself is read from the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parsed(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with ``cfg_options`` as a dict; ``typed_options`` keeps the words."""
    words = args.cfg_options or []
    return argparse.Namespace(
        **{**vars(args), 'cfg_options': cfg_options(words), 'typed_options': words}
    )


def split(words: list[str]) -> tuple[list[str], str, str | None]:
    """Images, config and checkpoint of a line that has them in this order.

    The config is the first word that ends as configs do; without one, the last word, or the one before a
    checkpoint.

    Raises:
        UserError: There is no image before the config, or too much behind it.
    """
    last = len(words) - 1
    places = [i for i, word in enumerate(words) if word.lower().endswith(CONFIGS)]
    at = places[0] if places else last - words[-1].lower().endswith(CHECKPOINTS)
    images, behind = words[: max(at, 0)], words[at + 1 :]
    order = '  to fix it: IMAGE... CONFIG [CHECKPOINT], in this order.'
    if not images:
        raise UserError(f'there is no image before the config ({words[max(at, 0)]}).\n{order}')
    if early := [word for word in images if word.lower().endswith(CHECKPOINTS)]:
        raise UserError(f'the checkpoint {early[0]} is before the config {words[at]}.\n{order}')
    if len(behind) > 1:
        raise UserError(f'behind the config {words[at]} are {" and ".join(behind)}.\n{order}')
    return images, words[at], behind[0] if behind else None
