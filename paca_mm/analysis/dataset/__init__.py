"""Looking at every file of the datasets of a config: ``tools/check_dataset.py``."""

from .report import write_report
from .survey import Survey, survey

__all__ = ['Survey', 'survey', 'write_report']
