"""The published models of Attentive Normalization."""

from typing import Any

from paca_mm.families import Catalogue, Kind, Row


def _norm(num_mixtures: int) -> dict[str, Any]:
    return dict(type='paca_mm.AttnBN', num_mixtures=num_mixtures)


#: The norms behind the 3x3 convolutions of a ResNet's bottlenecks.
RESNET = {r'layer[12]\.\d+\.bn2': _norm(10), r'layer[34]\.\d+\.bn2': _norm(20)}

#: The norms behind the depthwise convolutions; the first block does not expand.
MOBILENET_V2 = {
    r'layer1\.0\.conv\.0\.bn': _norm(5),
    r'layer[234]\.\d+\.conv\.1\.bn': _norm(5),
    r'layer[567]\.\d+\.conv\.1\.bn': _norm(10),
}

#: The arguments of ``ReplaceNorms`` that make a backbone. The authors' weights are archives on Google
#: Drive, linked from their README: no address that a program could fetch them from.
ROWS: dict[str, Row] = {
    'resnet50_an': Row(
        None, dict(module=dict(type='mmpretrain.ResNet', depth=50, out_indices=(3,)), norms=RESNET)
    ),
    'resnet101_an': Row(
        None, dict(module=dict(type='mmpretrain.ResNet', depth=101, out_indices=(3,)), norms=RESNET)
    ),
    'mobilenet_v2_an': Row(
        None, dict(module=dict(type='mmpretrain.MobileNetV2'), norms=MOBILENET_V2)
    ),
}

#: The models around the backbones.
KINDS = {
    'cls': Kind('cls', '{row}_in1k', '{name}'),
    'mask_rcnn': Kind('det', 'mask_rcnn_{row}', '{name}'),
    'mask_rcnn_head': Kind('det', 'mask_rcnn_{row}_head', '{name}'),
}
DETECTORS = ('resnet50_an', 'resnet101_an')


def config_name(kind: str, row: str) -> str:
    """The config of a row, from the project's root."""
    task, config, _ = KINDS[kind]
    name = row if kind == 'cls' else row.replace('resnet', 'r')
    return f'configs/{task}/attentive_norm/{config.format(row=name)}.py'


CATALOGUE = Catalogue(
    rows=ROWS,
    kinds=KINDS,
    config=config_name,
    weights=lambda kind, row: None,
    published={'mask_rcnn': DETECTORS, 'mask_rcnn_head': DETECTORS},
    paper='arXiv:1908.01259',
)
