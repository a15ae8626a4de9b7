"""Models on their way out: ONNX files that are fast, checked and explain themselves, and .pt2 files.

``model`` says what leaves of a config's model and in which form, ``onnx_file`` writes it, ``check`` runs
the file beside the model, ``int8`` quantises it and measures what that costs, ``command`` is the command
line. What runs the files is :mod:`paca_mm.deploy`.
"""
