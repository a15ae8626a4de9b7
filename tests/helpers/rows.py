"""Published rows as arguments of ``PaCaViT`` and what is known of each; small models of every kind."""

from helpers import golden
from paca_mm.models import PaCaViT

#: row: (arguments, parameters of the backbone, of the 1000-class classifier, of Mask R-CNN)
ROWS = {
    'tiny': (dict(arch='tiny'), 11_815_680, 12_200_680, 31_974_896),
    'small': (dict(arch='small'), 21_652_704, 22_037_704, 41_811_920),
    'base': (dict(arch='base'), 46_398_304, 46_911_304, 66_606_672),
    'small_mlp': (dict(arch='small', clustering='mlp'), 22_252_268, 22_637_268, 42_411_484),
    'tiny_teacher': (dict(arch='tiny_teacher'), 12_098_672, 12_483_672, None),
    'small_teacher': (dict(arch='small_teacher'), 20_690_064, 21_075_064, 40_849_280),
    'base_teacher': (dict(arch='base_teacher'), 47_146_192, 47_659_192, 67_354_560),
    'small_c2': (dict(num_clusters=(2, 2, 2, 0)), 21_593_120, 21_978_120, 41_752_336),
    'small_c49': (dict(num_clusters=(49, 49, 49, 0)), 21_621_696, 22_006_696, 41_780_912),
    'small_c49_100': (dict(num_clusters=(49, 64, 81, 100)), 21_842_560, 22_227_560, 42_001_776),
    'small_c100_49': (dict(num_clusters=(100, 81, 64, 49)), 21_825_696, 22_210_696, 41_984_912),
    'small_c100': (dict(num_clusters=(100,) * 4), 21_860_448, 22_245_448, 42_019_664),
    'small_c100_blockwise': (
        dict(num_clusters=(100,) * 4, cluster_every=1),
        23_806_944,
        24_191_944,
        43_966_160,
    ),
}

#: A pyramid small enough to run in float64, with every part of the large ones.
MINI = dict(
    embed_dims=(16, 24, 32, 40),
    num_heads=(2, 3, 2, 5),
    depths=(2, 3, 2, 2),
    mlp_ratios=(4, 2, 3, 4),
)
MINI_TEACHER = dict(MINI, teacher_depths=(1, 2, 1, 1))

#: Every way to cluster, on the small pyramid.
MINIS = {
    'conv': dict(num_clusters=(7, 5, 3, 0)),
    'mlp': dict(clustering='mlp', num_clusters=(7, 5, 3, 2)),
    'linear': dict(clustering='linear', num_clusters=(0, 5, 0, 2)),
    'blockwise': dict(num_clusters=(7, 5, 3, 2), cluster_every=1),
    'every_second': dict(num_clusters=(7, 5, 3, 2), cluster_every=(0, 2, 1, 2)),
    'plain': dict(num_clusters=(0, 0, 0, 0)),
    'teacher': dict(arch=MINI_TEACHER, num_clusters=(7, 5, 3, 2)),
    'teacher_with_plain_stages': dict(arch=MINI_TEACHER, num_clusters=(0, 5, 0, 2)),
}


def mini(name='conv', **kwargs):
    """A small filled model in eval mode; float32."""
    model = PaCaViT(**{'arch': MINI, 'drop_path_rate': 0.0, **MINIS[name], **kwargs})
    return golden.fill(model).eval()
