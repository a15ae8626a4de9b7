"""The documents of the project, and what stands in them."""

import re
import shlex

from paca_mm.paths import assets_root

ROOT = assets_root()
DOCUMENTS = sorted(
    [*ROOT.glob('*.md'), *ROOT.glob('configs/**/README.md'), *ROOT.glob('docs/*.md')]
)


def name(path):
    return str(path.relative_to(ROOT))


def settled(path):
    """The text of a document without what waits for a check, down to the next heading."""
    return re.sub(r'<!-- verify:.*?(?=^#|\Z)', '', path.read_text(), flags=re.DOTALL | re.MULTILINE)


def blocks(text, *languages):
    """The code blocks of a document in one of these languages."""
    return re.findall(rf'^```(?:{"|".join(languages)})\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def commands(text):
    """The command lines of a document's shell blocks, as words."""
    lines = '\n'.join(blocks(text, 'bash', 'shell')).replace('\\\n', ' ').splitlines()
    words = (shlex.split(line, comments=True) for line in lines)
    return [line for line in words if line]
