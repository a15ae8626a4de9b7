"""How fast, how heavy: models side by side in one run.

``contestants`` knows the models by name, ``plain`` is PaCa written down without any thought of speed,
``clock`` times them in turn, ``memory`` watches one alone in a process of its own, ``report`` prints,
saves and plots. ``tools/benchmark.py`` is the command line over them.
"""
