"""Sphinx over the whole checkout: a page is a Markdown file where it lies, so a link that works on a
code host works here.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paca_mm import __version__  # noqa: E402

project = 'paca_mm'
author = 'The paca_mm authors'
copyright = author  # what the footer shows
release = version = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
root_doc = 'docs/index'
include_patterns = ['docs/*.md', 'configs/**/README.md', '*.md', 'benchmarks/results/*.png']
exclude_patterns = [
    '.*',
    'build',
    'data',
    'dist',
    'docs/_build',
    'tests',
    'work_dirs',
    '*.egg-info',
]
exclude_patterns += ['paca_mm', 'README.md', 'README.proposed.md']

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # they stand in the signature's defaults and in Args
autoclass_content = 'class'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_exclude = '.linenos, .gp, .go'

html_theme = 'furo'
html_title = f'paca_mm {release}'
html_static_path = ['_static']
html_css_files = ['tables.css']
html_extra_path = ['_root']
html_theme_options = {'navigation_with_keys': True}
html_show_sourcelink = False

# Pages of papers refuse machines, and repositories of releases answer slowly.
linkcheck_ignore = [r'https://github\.com/iVMCL/PaCaViT/releases/download/.*']
linkcheck_timeout = 30
