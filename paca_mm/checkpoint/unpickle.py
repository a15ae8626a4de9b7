"""A pickle machine that builds tensors and plain values, and calls nothing that the pickle names.

A ``.pth`` file is a pickle, and a pickle is a program: it may name any function and have it called.
Python's own unpickler calls what it finds, so whatever may be looked up with it must be harmless under
every argument; NumPy's constructors are not, and neither is torch's storage, which believes the size
that a file states. So the few opcodes that checkpoints consist of are carried out here. A name is
only ever a :class:`Name`; what it stands for is done by functions of this module, which look at
their arguments. What is no tensor, number, text, container or log buffer becomes :class:`Inert`.

``torch.load(weights_only=True)`` does not go first: it does not read the log buffers of a run, trusts
the size that a storage is said to have, and a second reader is a second thing to attack.
"""

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

#: Libraries whose objects are found in published checkpoints; they become :class:`Inert`.
INERT_ROOTS = {
    'addict', 'argparse', 'builtins', 'collections', 'copyreg', 'datetime', 'easydict', 'fvcore',
    'mmcv', 'mmcls', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'numpy', 'omegaconf', 'pathlib',
    'timm', 'torch', 'yacs',
}  # fmt: skip

#: Nobody's bookkeeping: a file that names one of these wants code to be run.
_NEVER = {
    'eval', 'exec', 'compile', 'open', '__import__', 'setattr', 'delattr', 'input', 'globals',
    'breakpoint', 'vars', 'load', 'system', 'popen', 'hub',
}  # fmt: skip

#: Protocol 2, which torch writes, has the names of Python 2.
_PYTHON_2 = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}

#: How deep lists and dicts may lie in each other; runs and published files stay below 20.
MAX_DEPTH = 100

#: Lists, dicts and sets in one pickle; a run's file has some thousands.
MAX_CONTAINERS = 2_000_000

#: The largest tensor that may repeat values of its storage (strides of 0), in elements.
_MAX_EXPANDED = 2**20

_STORAGES = {
    'FloatStorage': torch.float32,
    'DoubleStorage': torch.float64,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexFloatStorage': torch.complex64,
    'ComplexDoubleStorage': torch.complex128,
    'UntypedStorage': torch.uint8,
}

#: Kinds of NumPy numbers, by what ``numpy.dtype`` is called with.
_PLAIN_KINDS = {
    'b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16',
}  # fmt: skip


class Refused(Exception):
    """The pickle names something that is neither a tensor nor harmless."""


class Damaged(Exception):
    """The pickle is torn, or states what cannot be."""


class Inert:
    """Stands for an object that is not needed."""

    def __repr__(self) -> str:
        return '<not loaded>'


class Name(Inert):
    """Stands for a function or class, by its name; never the thing itself."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __repr__(self) -> str:
        return f'{self.module}.{self.name}'


class Storage:
    """The memory of tensors, of a kind."""

    def __init__(self, untyped: Any, dtype: torch.dtype) -> None:
        self.untyped, self.dtype = untyped, dtype
        self.numel = untyped.nbytes() // itemsize(dtype)


class _Dtype:
    """A kind of NumPy numbers and their byte order."""

    def __init__(self, kind: str) -> None:
        self.kind, self.order = kind, '='

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.kind)


class _Array:
    """A NumPy array, from the state that follows it."""

    value: np.ndarray | None = None


class _History:
    """A log buffer of mmengine's, from the state that follows it."""

    state: dict[str, Any] | None = None


def unpickle(
    stream: Any, size: int, storage_of: Callable[[torch.dtype, str, str, int], Any] | None = None
) -> Any:
    """Read one pickle.

    Args:
        stream: A binary file or memory map, at the pickle's beginning; afterwards behind its end.
        size: Bytes of it, the bound of what may be built without storages.
        storage_of: ``(dtype, key, location, numel)`` -> an untyped storage of just that size.

    Raises:
        Refused: It names what no checkpoint needs.
        Damaged: It is torn, or inconsistent.
    """
    machine = _Machine(size, storage_of)
    return _Finish(machine).of(machine.run(stream))


class _Machine:
    def __init__(self, size: int, storage_of: Callable[..., Any] | None) -> None:
        # Elements and bytes that calls may copy: each has a byte of its own, and is copied some times.
        self.budget = 8 * size + 2**16
        self.storage_of = storage_of
        self.containers = 0
        self.storages: dict[str, Storage] = {}
        self.memo: dict[int, Any] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []

    def run(self, stream: Any) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == 'STOP':
                    return self.stack[-1]
                self.step(opcode.name, argument)
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as e:
            raise Damaged(f'{type(e).__name__}: {e}') from None
        raise Damaged('it has no end')

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _FRESH:
            self.containers += 1
            if self.containers > MAX_CONTAINERS:
                raise Damaged(f'more than {MAX_CONTAINERS} containers')
            stack.append(_FRESH[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ('PROTO', 'FRAME'):
            pass
        elif name == 'MARK':
            self.marks.append(len(stack))
        elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
            self.memo[argument] = stack[-1]
        elif name == 'MEMOIZE':
            self.memo[len(self.memo)] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET', 'GET'):
            stack.append(self.memo[argument])
        elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == 'TUPLE':
            stack.append(tuple(self.above_mark()))
        elif name == 'LIST':
            stack.append(self.above_mark())
        elif name == 'DICT':
            stack.append(_paired(self.above_mark()))
        elif name == 'FROZENSET':
            stack.append(frozenset(map(_key, self.above_mark())))
        elif name in ('APPEND', 'APPENDS'):
            items = [stack.pop()] if name == 'APPEND' else self.above_mark()
            if not isinstance(stack[-1], Inert):
                _expect(stack[-1], list).extend(items)
        elif name == 'ADDITEMS':
            items = self.above_mark()
            _expect(stack[-1], set).update(map(_key, items))
        elif name in ('SETITEM', 'SETITEMS'):
            items = [stack.pop(-2), stack.pop()] if name == 'SETITEM' else self.above_mark()
            if isinstance(stack[-1], Counter):  # which would add the values up
                raise Damaged('items of a counter')
            if not isinstance(stack[-1], Inert):
                _expect(stack[-1], dict).update(_paired(items))
        elif name == 'GLOBAL':
            stack.append(_named(*argument.split(' ', 1)))
        elif name == 'STACK_GLOBAL':
            found = stack.pop()
            stack.append(_named(stack.pop(), found))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments = _expect(stack.pop(), tuple)
            stack.append(self.call(stack.pop(), arguments))
        elif name == 'NEWOBJ_EX':
            stack.pop()
            arguments = _expect(stack.pop(), tuple)
            stack.append(self.call(stack.pop(), arguments))
        elif name == 'BUILD':
            state = stack.pop()
            self.build(stack[-1], state)
        elif name == 'BINPERSID':
            stack.append(self.persistent(stack.pop()))
        elif name == 'POP':
            stack.pop()
        elif name == 'POP_MARK':
            self.above_mark()
        elif name == 'DUP':
            stack.append(stack[-1])
        else:
            raise Refused(f'the pickle opcode {name}')

    def above_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def spend(self, amount: int) -> None:
        """Copies are paid for, so that a short file makes no large ones."""
        self.budget -= amount
        if self.budget < 0:
            raise Damaged('it would grow to many times its size')

    def call(self, what: Any, arguments: tuple) -> Any:
        if not isinstance(what, Name):
            raise Refused(f'an object of the kind {type(what).__name__}')
        function = _FUNCTIONS.get(str(what))
        return Inert() if function is None else function(self, *arguments)

    def build(self, target: Any, state: Any) -> None:
        """What an object is given after it was made: only where it is known what it means."""
        if isinstance(target, _Dtype):
            order = _expect(state[1], str)
            if order not in ('<', '>', '|', '='):
                raise Damaged(f'the byte order {order!r}')
            target.order = order
        elif isinstance(target, _Array):
            target.value = self.array(*state[1:5])
        elif isinstance(target, _History):
            target.state = _expect(state, dict)
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            if isinstance(state.get('_metadata'), dict):  # the versions of a model's modules
                vars(target)['_metadata'] = state['_metadata']
        elif not isinstance(target, Inert):
            raise Refused(f'a state for an object of the kind {type(target).__name__}')

    def persistent(self, identity: Any) -> Storage:
        """Only a tensor's memory is kept outside a pickle."""
        kind, name, key, location, numel, *view = _expect(identity, tuple)
        dtype = _STORAGES.get(name.name) if isinstance(name, Name) else None
        if kind not in ('storage', b'storage') or dtype is None or self.storage_of is None:
            shown = repr(kind) if isinstance(kind, (str, bytes, int)) else type(kind).__name__
            raise Refused(f'the persistent object {shown}')
        if any(part is not None for part in view):
            raise Damaged('a storage that is a view of another')
        if not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
            raise Damaged('a storage without key or size')
        if key not in self.storages:
            untyped = self.storage_of(dtype, key, _expect(location, str), numel)
            self.storages[key] = Storage(untyped, dtype)
        return self.storages[key]

    def array(self, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray | None:
        if not isinstance(dtype, _Dtype):
            return None  # of objects
        data = data.encode('latin1') if isinstance(data, str) else bytes(_expect(data, bytes))
        self.spend(len(data))
        flat = np.frombuffer(data, dtype.numpy())
        return flat.reshape([int(n) for n in shape], order='F' if fortran else 'C').copy()


#: Opcodes whose argument is the value.
_VALUES = {
    'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT',
    'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE',
    'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8',
}  # fmt: skip
_FRESH = {'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple, 'EMPTY_DICT': dict, 'EMPTY_SET': set}
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}


def _expect(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        wanted = ' or '.join(kind.__name__ for kind in kinds)
        raise Damaged(f'{type(value).__name__} where {wanted} belongs')
    return value


def _paired(items: Sequence[Any]) -> dict:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(value: Any, depth: int = 0) -> Any:
    """A key or a member of a set: what is hashed at once, which nested tuples are not."""
    if isinstance(value, tuple) and depth < 3 and len(value) < 64:
        return tuple(_key(item, depth + 1) for item in value)
    if value is not None and not isinstance(value, _KEYS):
        raise Damaged(f'{type(value).__name__} as a key')
    return value


_KEYS = (str, bytes, int, float, complex, Name, np.generic, torch.dtype, torch.device)


def _named(module: Any, name: Any) -> Any:
    """A name, or the torch.dtype that it is; what no checkpoint needs is refused."""
    module = _PYTHON_2.get(_expect(module, str), module)
    name = _expect(name, str)
    if module == 'torch' and isinstance(dtype := vars(torch).get(name), torch.dtype):
        return dtype
    known = f'{module}.{name}' in _FUNCTIONS
    if not known and (module.partition('.')[0] not in INERT_ROOTS or _NEVER & {*name.split('.')}):
        raise Refused(f'{module}.{name}')
    return Name(module, name)


# What the names stand for. Each is given the machine and the pickle's arguments.


def _tensor(
    machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> Tensor:
    storage = _expect(storage, Storage)
    return _view(storage, storage.dtype, offset, shape, strides, bool(rest and rest[0]))


def _tensor_v3(
    machine: _Machine, storage: Any, offset: Any, shape: Any, strides: Any,
    requires_grad: Any, hooks: Any, dtype: Any, *rest: Any,
) -> Tensor:  # fmt: skip
    dtype = _expect(dtype, torch.dtype)
    return _view(_expect(storage, Storage), dtype, offset, shape, strides, bool(requires_grad))


def _view(
    storage: Storage, dtype: torch.dtype, offset: Any, shape: Any, strides: Any, grad: bool
) -> Tensor:
    """A tensor that lies within its storage, and is not much larger."""
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise Damaged('a tensor of impossible shape')
    available = storage.untyped.nbytes() // itemsize(dtype)
    count = 1
    for length in shape:
        count *= length
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if count and last >= available:
        raise Damaged('a tensor that reaches beyond its storage')
    if count > max(16 * available, _MAX_EXPANDED):
        raise Damaged('a tensor many times as large as its storage')
    tensor = torch.empty(0, dtype=dtype, device=storage.untyped.device)
    tensor.set_(storage.untyped, offset if count else 0, tuple(shape), tuple(strides))
    return tensor.requires_grad_(grad and (dtype.is_floating_point or dtype.is_complex))


def itemsize(dtype: torch.dtype) -> int:
    """Bytes of a number."""
    return torch.empty(0, dtype=dtype).element_size()


def _parameter(machine: _Machine, data: Any = None, requires_grad: Any = True, *rest: Any) -> Any:
    grad = requires_grad is True and data.is_floating_point()
    return nn.Parameter(_expect(data, Tensor).detach(), requires_grad=grad)


def _from_type(machine: _Machine, function: Any, cls: Any, arguments: Any, *rest: Any) -> Any:
    return machine.call(function, _expect(arguments, tuple))


def _ordered(machine: _Machine, items: Any = ()) -> OrderedDict:
    items = items.items() if isinstance(items, dict) else items
    machine.spend(len(items))
    return OrderedDict((_key(key), value) for key, value in items)


def _counter(machine: _Machine, counts: Any = None) -> Counter:
    machine.spend(len(counts or ()))
    return Counter(_expect(counts or {}, dict))


def _container(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def make(machine: _Machine, items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple, set, frozenset, dict)):
            raise Damaged(f'a container of {type(items).__name__}')
        machine.spend(len(items))
        if kind in (set, frozenset):
            items = [_key(item) for item in items]
        elif kind is dict and not isinstance(items, dict):
            items = [(_key(key), value) for key, value in items]
        return kind(items)

    return make


def _size(machine: _Machine, sizes: Any = ()) -> torch.Size:
    machine.spend(len(sizes))
    return torch.Size(_expect(n, int) for n in sizes)


def _number(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(machine: _Machine, *parts: Any) -> Any:
        if any(not isinstance(part, (int, float)) for part in parts):
            raise Damaged('a number of something else')
        return kind(*parts)

    return make


def _encoded(machine: _Machine, text: Any, encoding: Any = 'latin1', *rest: Any) -> bytes:
    if _expect(encoding, str) not in ('latin1', 'latin-1'):
        raise Refused(f'_codecs.encode to {encoding!r}')
    machine.spend(len(_expect(text, str)))
    return text.encode('latin1')


def _raw(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(machine: _Machine, content: Any = b'', encoding: Any = 'latin1', *rest: Any) -> Any:
        if isinstance(content, str):
            content = _encoded(machine, content, encoding)
        machine.spend(len(_expect(content, bytes, bytearray)))
        return kind(content)

    return make


def _dtype(machine: _Machine, kind: Any, *rest: Any) -> Any:
    kind = kind.decode('ascii') if isinstance(kind, bytes) else _expect(kind, str)
    return _Dtype(kind) if kind in _PLAIN_KINDS else Inert()


def _scalar(machine: _Machine, dtype: Any, data: Any = b'') -> Any:
    if not isinstance(dtype, _Dtype):
        return Inert()
    data = data.encode('latin1') if isinstance(data, str) else _expect(data, bytes)
    (number,) = np.frombuffer(data, dtype.numpy())
    return number


def _get(machine: _Machine, owner: Any, name: Any) -> Any:
    """The one use of ``getattr`` in a run's file: log buffers name their own methods."""
    if not _is_history(owner) or name not in ('min', 'max', 'current', 'mean'):
        raise Refused('builtins.getattr')
    return Inert()


HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'


def _is_history(value: Any) -> bool:
    return isinstance(value, Name) and str(value) == HISTORY


def _reconstructed(machine: _Machine, cls: Any, *rest: Any) -> Any:
    return _History() if _is_history(cls) else Inert()


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch.nn.parameter.Parameter': _parameter,
    'torch._tensor._rebuild_from_type_v2': _from_type,
    'torch.Size': _size,
    'torch.device': lambda machine, kind, *index: torch.device(_expect(kind, str), *index),
    'collections.OrderedDict': _ordered,
    'collections.defaultdict': lambda machine, *factory: {},
    'collections.Counter': _counter,
    'builtins.list': _container(list),
    'builtins.tuple': _container(tuple),
    'builtins.set': _container(set),
    'builtins.frozenset': _container(frozenset),
    'builtins.dict': _container(dict),
    'builtins.int': _number(int),
    'builtins.float': _number(float),
    'builtins.complex': _number(complex),
    'builtins.bytes': _raw(bytes),
    'builtins.bytearray': _raw(bytearray),
    'builtins.getattr': _get,
    '_codecs.encode': _encoded,
    'numpy.dtype': _dtype,
    HISTORY: lambda machine, *rest: _History(),
    'copyreg._reconstructor': _reconstructed,
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    _FUNCTIONS[f'{_module}._reconstruct'] = lambda machine, *rest: _Array()
    _FUNCTIONS[f'{_module}.scalar'] = _scalar


class _Finish:
    """Puts arrays and log buffers in place of what stood for them, once the pickle is read."""

    def __init__(self, machine: _Machine) -> None:
        self.machine = machine
        self.done: dict[int, Any] = {}

    def of(self, value: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise Damaged(f'it is nested more than {MAX_DEPTH} deep')
        if isinstance(value, _Array):
            return Inert() if value.value is None else value.value
        if isinstance(value, _Dtype):
            return value.numpy()
        if isinstance(value, _History):
            if id(value) not in self.done:
                self.done[id(value)] = self._history(value)
            return self.done[id(value)]
        if not isinstance(value, (dict, list, tuple)) or isinstance(value, torch.Size):
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if isinstance(value, tuple):
            result = tuple(self.of(v, depth + 1) for v in value)
            self.done[id(value)] = result
            return result
        self.done[id(value)] = value
        places = list(value.items() if isinstance(value, dict) else enumerate(value))
        for key, item in places:
            value[key] = self.of(item, depth + 1)
        metadata = getattr(value, '_metadata', None)
        if metadata is not None:
            vars(value)['_metadata'] = self.of(metadata, depth + 1)
        return value

    def _history(self, value: _History) -> Any:
        try:
            from mmengine.logging import HistoryBuffer
        except ImportError:  # nobody is going on with a run here
            return Inert()

        state = value.state or {}
        lists = [self._numbers(state.get(key)) for key in ('_log_history', '_count_history')]
        longest = state.get('max_length', 1000000)
        if len(lists[0]) != len(lists[1]) or not isinstance(longest, int):
            raise Damaged('a log buffer whose numbers and counts differ')
        return HistoryBuffer(*lists, max_length=longest)

    def _numbers(self, value: Any) -> list[float]:
        value = value.value if isinstance(value, _Array) else value
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in 'biuf':
            self.machine.spend(len(value))
            return value.tolist()
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            raise Damaged('a log buffer without numbers')
        self.machine.spend(len(value))
        return [_expect(number, int, float) for number in value]
