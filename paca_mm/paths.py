"""Where the files are that travel with the package but are not Python modules."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[0]


def assets_root() -> Path:
    """The folder that holds ``configs/`` and ``tools/``.

    In a checkout, also when it is installed editable, that is the checkout. A wheel has them in
    ``paca_mm/.mim``, where OpenMMLab's tools look for them in every package.
    """
    for folder in (PACKAGE / '.mim', PACKAGE.parent):
        if (folder / 'configs').is_dir() and (folder / 'tools').is_dir():
            # An editable install has links in .mim; where they lead to is the checkout.
            return (folder / 'configs').resolve().parent
    raise FileNotFoundError(
        f'no configs/ and tools/ in {PACKAGE / ".mim"} and none beside the package: '
        'install paca_mm from a checkout or from a complete wheel'
    )
