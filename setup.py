"""What pyproject.toml cannot say: OpenMMLab's tools look for configs in ``.mim``, and the README that a
package index shows has no files beside it.
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'paca_mm'

# What is not a Python module, and is found in `.mim` of the installed package.
ASSETS = ('configs', 'tools', 'model-index.yml')


class BuildWithAssets(build_py):
    """Brings configs/ and tools/ along into a wheel, as copies.

    An editable install needs none: mim and this package look beside the package, and a second way to
    the same files makes ``mim train`` refuse a config that it finds twice.

    A command class, because `pip install -e .` runs neither `develop` nor anything else that could
    be told from `sys.argv`.
    """

    def run(self):
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / PACKAGE / '.mim'
        if mim.exists():  # of an earlier build: what was removed since must not come along
            shutil.rmtree(mim)
        if editable:
            return
        mim.mkdir(parents=True)
        for name in ASSETS:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.py[co]', '.*')
                shutil.copytree(source, mim / name, ignore=ignore)
            elif source.exists():
                shutil.copyfile(source, mim / name)


def readme(text, repository, ref):
    """The README with links and images that work on any page.

    Args:
        text: The README, whose relative links lead to files of the repository.
        repository: ``owner/name`` on GitHub.
        ref: The tag or branch that is built.
    """

    def absolute(match):
        mark, label, target = match.groups()
        place = f'https://github.com/{repository}/blob/{ref}'
        if mark:  # an image
            place = f'https://raw.githubusercontent.com/{repository}/{ref}'
        return f'{mark}[{label}]({place}/{target})'

    return re.sub(r'(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)', absolute, text)


def urls(repository):
    """The project's addresses; those of its repository where that is known."""
    found = {
        'Paper': 'https://arxiv.org/abs/2203.11987',
        'Official code and weights': 'https://github.com/iVMCL/PaCaViT',
    }
    if repository:
        ours = f'https://github.com/{repository}'
        found |= {
            'Repository': ours,
            'Issues': f'{ours}/issues',
            'Changelog': f'{ours}/blob/HEAD/CHANGELOG.md',
        }
    return found


if __name__ == '__main__':
    # Workflows on GitHub know where they run; a build by hand has no page that its links could miss.
    home = os.environ.get('GITHUB_REPOSITORY')
    page = (ROOT / 'README.md').read_text()
    setup(
        cmdclass={'build_py': BuildWithAssets},
        zip_safe=False,
        long_description=readme(page, home, os.environ.get('GITHUB_REF_NAME', 'HEAD'))
        if home
        else page,
        long_description_content_type='text/markdown',
        project_urls=urls(home),
    )
