"""Models on their way out: ONNX files that are fast, checked and explain themselves, and .pt2 files.

``model`` says what leaves of a config's model and in which form, ``onnx_file`` and ``pt2`` write it,
``check`` runs the file beside the model, ``int8`` quantises it and measures what that costs, and
``command`` is the command line. What runs ONNX files is :mod:`paca_mm.deploy`; torch runs .pt2 files.
"""
