"""The published models of ViTTM: what each row is made of, and where its configs are."""

from paca_mm.families import Catalogue, Kind, Row

#: The rows, named by their memory and process patches. The authors keep weights on Google Drive: no
#: address that a program could fetch them from is known to us.
ROWS: dict[str, Row] = {
    f'{arch}_{memory}_{process}': Row(
        None,
        dict(arch=arch, memory_patch=memory, process_patch=process),
        recipe=dict(drop_path_rate=rate),
    )
    for arch, rate in (('small', 0.1), ('base', 0.2))
    for memory, process in ((28, 28), (16, 32))
}

#: The models around the backbones.
KINDS = {
    'cls': Kind('cls', 'vittm_{row}_in1k', '{name}'),
    'segmenter': Kind('seg', 'segmenter_vittm_{row}_ade20k', '{name}'),
    'upernet': Kind('seg', 'upernet_vittm_base_ade20k', '{name}'),
}


def config_name(kind: str, row: str) -> str:
    """The config of a row, from the project's root: ``'configs/cls/vittm/vittm_base_28_28_in1k.py'``."""
    task, config, _ = KINDS[kind]
    return f'configs/{task}/vittm/{config.format(row=row)}.py'


CATALOGUE = Catalogue(
    rows=ROWS,
    kinds=KINDS,
    config=config_name,
    weights=lambda kind, row: None,
    published={'segmenter': ('base_28_28', 'base_16_32'), 'upernet': ('base_16_32',)},
    license='mit',
    paper='arXiv:2409.07613',
)
