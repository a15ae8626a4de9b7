# A model that is spread over the processes, for one that does not fit on a GPU beside its optimizer:
# parameters, gradients and the optimizer's state are kept in pieces, a block of the backbone each.
# mmengine's FlexibleRunner does so, without what paca_mm.SafeRunner adds: docs/reliability.md says what
# that means. Take it beside a config of ours:
#   _base_ = ['<path>/mask_rcnn_paca.py', '<path>/configs/_base_/sharded.py']
#   runner_type = 'FlexibleRunner'
#   strategy = _base_.fsdp
#   optim_wrapper = dict(**_base_.fsdp_optim)

# PyTorch's own. The checkpoints are whole, and testing or resuming them needs no strategy.
fsdp = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        auto_wrap_policy='paca_mm.wrap_blocks',
        use_orig_params=True,  # weight decay and learning rates go by the parameters' names
    ),
    state_dict_cfg='full',
)
fsdp_optim = dict(use_fsdp=True)  # of AmpOptimWrapper: the scale of the loss is agreed on

# DeepSpeed's ZeRO, stage 2: gradients and the optimizer's state. Needs the package deepspeed, and a GPU.
#   strategy = _base_.deepspeed
#   optim_wrapper = dict(**_base_.deepspeed_optim)
deepspeed = dict(
    type='DeepSpeedStrategy',
    zero_optimization=dict(stage=2, overlap_comm=True, contiguous_gradients=True),
    bf16=dict(enabled=True),
    gradient_clipping=1.0,
)
deepspeed_optim = dict(type='DeepSpeedOptimWrapper')
