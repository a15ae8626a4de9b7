"""Importing this module lets mmdet, mmseg and mmpretrain know our models by their names.

``DetInferencer('mask_rcnn_paca_tiny')``, ``MMSegInferencer('paca_head_paca_tiny_ade20k')`` and
``get_model('paca_small_in1k')`` then find config and official weights.
"""

from paca_mm.zoo import register

register()
