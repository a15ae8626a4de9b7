"""How fast, how heavy: models side by side in one run.

``contestants`` knows the models by name, ``plain`` is PaCa written down without any thought of speed,
``worker`` runs one in a process of its own, ``race`` lets them take turns, ``report`` prints, saves
and plots, ``goals`` holds what this project wants to reach. ``tools/benchmark.py`` is the command line.
"""
