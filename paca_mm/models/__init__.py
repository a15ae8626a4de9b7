"""The models, a folder a family; a model is imported when it is asked for by its name.

:mod:`paca_mm.families` says which there are. ``from paca_mm.models import PaCaViT`` needs torch,
mmengine and op-less mmcv; a decode head needs its host too.
"""

from typing import TYPE_CHECKING, Any

from paca_mm.families import families, load_member

if TYPE_CHECKING:
    from .paca.backbone import PaCaViT as PaCaViT


def __getattr__(name: str) -> Any:
    try:
        return load_member(name)
    except KeyError:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}') from None


def __dir__() -> list[str]:
    return [*globals(), *(name for family in families().values() for name in family.members)]
