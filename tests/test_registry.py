"""``type='paca_mm.PaCaViT'`` resolves wherever a user writes it."""

import subprocess
import sys
import textwrap

import pytest

HOSTS = ['mmengine', 'mmdet', 'mmseg', 'mmpretrain']


def python(code, **kwargs):
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                          check=False, **kwargs)  # fmt: skip


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.slow
def test_builds_from_every_scope_and_folder_without_custom_imports(host, tmp_path):
    pytest.importorskip(host)
    done = python(
        f"""
        from {host}.registry import MODELS
        from mmengine.registry import init_default_scope
        init_default_scope({host!r})
        arch = dict(embed_dims=(8, 8, 8, 8), num_heads=(1,) * 4, depths=(1,) * 4, mlp_ratios=(1,) * 4)
        print(type(MODELS.build(dict(type='paca_mm.PaCaViT', arch=arch))).__name__)
        """,
        cwd=tmp_path,
    )
    assert done.stdout.split()[-1:] == ['PaCaViT'], done.stderr


def test_importing_the_package_imports_nothing():
    done = python(
        """
        import sys
        before = set(sys.modules)
        import paca_mm
        print(sorted(set(sys.modules) - before), paca_mm.__version__)
        """
    )
    assert done.stdout.startswith("['paca_mm'] "), done.stdout + done.stderr


@pytest.mark.slow
def test_the_backbone_imports_no_host():
    done = python(
        """
        import sys
        from mmengine.registry import MODELS
        MODELS.get('paca_mm.PaCaViT')
        print({'mmdet', 'mmseg', 'mmpretrain', 'mmcv.ops', 'timm'} & set(sys.modules))
        """
    )
    assert done.stdout.strip() == 'set()', done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_arch_says_so_through_the_registry():
    done = python(
        """
        from mmengine.registry import MODELS
        MODELS.build(dict(type='paca_mm.PaCaViT', arch='smal'))
        """
    )
    assert "did you mean 'small'" in done.stderr
