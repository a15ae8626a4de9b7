# What our backbones are trained with, for the schedule of any host: what decays, and how fast a layer
# learns. Take it beside the schedule, whose optimizer, rate and keys stay:
#   _base_ = ['<the host's config>', '<path>/configs/_base_/optim.py']
#   optim_wrapper = dict(**_base_.paca_optim)
# or in a pure-Python config:
#   with read_base():
#       from .optim import *
#   optim_wrapper.update(paca_optim)

# Norms, biases and other vectors do not decay, whatever the schedule says of the backbone.
paca_optim = dict(
    constructor='paca_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)

# Layer-wise learning rates besides: each layer's is that of the one above it times this.
paca_layer_decay = dict(
    constructor='paca_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0, layer_decay_rate=0.8
    ),
)

# Clusters that start again, since there are more of them than in the checkpoint, learn faster: as
# custom_keys, optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.paca_new_clusters)).
paca_new_clusters = {'to_clusters': dict(lr_mult=10.0)}
