"""The commands of ``paca-mm``, a module each; see :mod:`paca_mm.cli` for what is in one."""
