"""Lets torchvision's CUDA build be imported beside a CPU-only torch.

The package index carries torchvision with CUDA only. Beside a torch without CUDA its library of
C++ operators cannot be loaded, and ``import torchvision`` dies with ``operator torchvision::nms
does not exist``; mmpretrain and mmengine's Runner die with it, although all they want are the
transforms, which are plain Python. It is enough that the two operators, for which torchvision
registers fake kernels without asking whether they exist, have been declared.

``tools/setup_env.py`` copies this file into an environment that has the fault, beside a ``.pth``
file that calls :func:`install` whenever Python starts. All that happens then is that one object is
put on ``sys.meta_path``; torch is imported when somebody imports torchvision, not before.
"""

import sys

_libraries = []  # torch takes the declarations back when the library object dies


def declare_missing_operators(folders):
    """Declares ``nms`` and ``qnms`` unless torchvision, which lies in ``folders``, brings them."""
    try:
        import torch
    except ImportError:
        return  # importing torchvision goes on to say so in its own words
    if torch.version.cuda is not None or getattr(torch.version, 'hip', None) is not None:
        return
    if _real_library_loads(torch, folders) or hasattr(torch.ops.torchvision, 'nms'):
        return
    library = torch.library.Library('torchvision', 'FRAGMENT')
    signature = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
    for operator in ('nms', 'qnms'):
        library.define(operator + signature)
    _libraries.append(library)


def _real_library_loads(torch, folders):
    from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder

    for folder in folders:
        spec = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec('_C')
        if spec is None:
            continue
        try:
            torch.ops.load_library(spec.origin)
        except (OSError, ImportError, RuntimeError):
            return False
        return True
    return False


class _TorchvisionFinder:
    """Finds torchvision as the other finders do, and has the operators declared before it runs."""

    def find_spec(self, name, path=None, target=None):
        if name != 'torchvision':
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, 'find_spec', None)
            if finder is self or find_spec is None:
                continue
            spec = find_spec(name, path, target)
            if spec is not None:
                return _declaring_first(spec)
        return None


def _declaring_first(spec):
    exec_module = getattr(spec.loader, 'exec_module', None)
    if exec_module is None:  # a namespace package: a leftover folder, nothing that would run
        return spec

    def declare_and_exec(module):
        declare_missing_operators(list(spec.submodule_search_locations or ()))
        exec_module(module)

    spec.loader.exec_module = declare_and_exec
    return spec


def install():
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())
