"""Reading what mmengine's logger has written into a work directory."""

import json
from pathlib import Path
from typing import Any

from paca_mm.errors import UserError


def last_scalars(work_dir: str | Path, phase: str, headline: str) -> dict[str, Any]:
    """The newest line with a metric, of the newest run in a work directory.

    Args:
        work_dir: Of the run.
        phase: ``'train'``, whose log holds the validations, or ``'test'``.
        headline: The metric that the line must hold, ``'coco/segm_mAP_50'`` say.

    Raises:
        UserError: No run there got as far as such a line.
    """
    pattern = '*/vis_data/scalars.json' if phase == 'train' else '*/*.json'
    files = sorted(Path(work_dir).glob(pattern))
    lines = files[-1].read_text().splitlines() if files else []
    for line in reversed(lines):
        row = json.loads(line)
        if headline in row:
            return row
    raise UserError(f'no metrics in {work_dir}: the run there did not finish.')
