"""What takes long to import and most contestants need: the server of the processes does it once.

What does not load here is no matter: who needs it says so.
"""

from contextlib import suppress
from importlib import import_module

for _name in ('paca_mm.analysis.speed.contestants', 'timm', 'mmseg.models'):
    with suppress(Exception):
        import_module(_name)
