"""How fast, how heavy: models side by side in one run.

``contestants`` knows the models by name, ``peers`` are those of other packages, ``steps`` what is timed,
``worker`` runs one in a process of its own, ``race`` lets them take turns, ``results`` are printed and
saved with their ``conditions``, ``plots`` draws them, ``goals`` holds what this project wants to reach.
``tools/benchmark.py`` is the command line.
"""
