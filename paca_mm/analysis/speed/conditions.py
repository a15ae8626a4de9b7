"""Under which conditions a measurement was made."""

import datetime
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from paca_mm.threads import cores

from .clock import need


@dataclass(frozen=True)
class Conditions:
    """Under which a measurement was made; every line of the CSV repeats them."""

    device: str
    threads: int
    torch: str
    python: str
    date: str
    command: str

    @classmethod
    def now(cls, device: str, threads: int) -> 'Conditions':
        need(device)
        return cls(
            device=torch.cuda.get_device_name() if device == 'cuda' else _processor(),
            threads=threads,
            torch=torch.__version__,
            python=platform.python_version(),
            date=datetime.date.today().isoformat(),
            command=' '.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )

    def __str__(self) -> str:
        return (
            f'{self.device}, {self.threads} threads, torch {self.torch}, Python {self.python}, '
            f'{self.date}'
        )


def _processor() -> str:
    """The processor's name and how many of its cores this machine has."""
    name = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
        name = names[0] if names else name
    return f'{name}, {cores()} cores'
