"""Files in torch's format, with a pickle of one's own in them."""

import zipfile


def archive(path, pickled, storages=None, compression=zipfile.ZIP_STORED):
    """Write an archive of a pickle and of storages by their key; returns the path."""
    with zipfile.ZipFile(path, 'w', compression) as file:
        file.writestr('archive/data.pkl', pickled)
        file.writestr('archive/version', '3')
        for key, content in (storages or {}).items():
            file.writestr(f'archive/data/{key}', content)
    return path


def parts(path):
    """The pickle of an archive, and its storages by key."""
    with zipfile.ZipFile(path) as file:
        records = {name.partition('/')[2]: file.read(name) for name in file.namelist()}
    return records['data.pkl'], {k[5:]: v for k, v in records.items() if k.startswith('data/')}
