"""Files that nobody thought of: whatever happens to a checkpoint, reading it is a message or a value.

The examples are the same in every run. ``FUZZ_EXAMPLES=10000`` for more of them than the suite has.
"""

import os
import resource

import numpy as np
import pytest
import torch

from helpers.archives import archive, parts
from paca_mm.checkpoint import read_checkpoint
from paca_mm.errors import UserError

pytest.importorskip('hypothesis')
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '120'))

#: The same examples every time, and no clock: the machine may be busy.
PROFILE = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: Bytes that reading one of these small files may take beyond what the process has.
MEMORY = 2**29

#: Numbers that a size, an offset or a count turns bad with.
ODD = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def content(seed):
    numbers = torch.Generator().manual_seed(seed)
    weights = {f'{i}.weight': torch.rand(8, 16, generator=numbers) + 1 for i in range(4)}
    weights['view'] = weights['0.weight'].t()[1:3]
    return {
        'state_dict': weights,
        'meta': {'epoch': seed, 'iter': 7, 'classes': ('cat', 'dog'), 'time': '2020', 'none': None},
        'scalars': [np.float64(0.5), np.arange(5), 2**70, -1.5, True, {1, 2}, b'bytes'],
    }


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        return isinstance(found, torch.Tensor) and torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        return np.array_equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Two contents in each format; and a place to write to."""
    folder = tmp_path_factory.mktemp('fuzz')
    made = {'folder': folder}
    for seed in (1, 2):
        torch.save(content(seed), folder / f'{seed}.pth')
        torch.save(content(seed), folder / f'{seed}.old', _use_new_zipfile_serialization=False)
        made['archive', seed] = (folder / f'{seed}.pth').read_bytes()
        made['legacy', seed] = (folder / f'{seed}.old').read_bytes()
        made['pickle', seed] = parts(folder / f'{seed}.pth')
    return made


@pytest.fixture(autouse=True)
def _bounded():
    """Less memory for the test than what a size that is believed would take."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open('/proc/self/statm') as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@st.composite
def mutations(draw):
    """What is done to the bytes of a file, and to which part of them (0 to 1)."""
    kind = draw(
        st.sampled_from(['flip', 'cut', 'zero', 'double', 'splice', 'insert', 'number', 'move'])
    )
    at, length = draw(st.floats(0, 1)), draw(st.integers(1, 600))
    value = draw(st.sampled_from(ODD) if kind == 'number' else st.integers(1, 255))
    return kind, at, length, value


def mutated(whole, other, changes):
    out = bytearray(whole)
    for kind, where, length, value in changes:
        at = int(where * len(out))
        piece = out[at : at + length]
        if kind == 'flip' and at < len(out):
            out[at] ^= value
        elif kind == 'cut':
            del out[at : at + length if value % 2 else None]
        elif kind == 'zero':
            out[at : at + length] = bytes(len(piece))
        elif kind == 'double':
            out[at:at] = piece * (value % 4 + 1)
        elif kind == 'splice':
            out[at : at + length] = other[at : at + length]
        elif kind == 'insert':
            out[at:at] = bytes([value]) * length
        elif kind == 'number':
            width = 4 if length % 2 else 8
            order = 'little' if length % 4 < 2 else 'big'
            out[at : at + width] = (value % 256**width).to_bytes(width, order)
        elif kind == 'move':
            del out[at : at + length]
            out[len(out) // 2 : len(out) // 2] = piece
    return bytes(out)


CHANGES = st.lists(mutations(), min_size=1, max_size=4)


def read(path):
    """What a file holds, or None where it is refused with a message of ours."""
    try:
        return read_checkpoint(path)
    except UserError as error:
        message = str(error)
        assert str(path) in message
        assert 'MemoryError' not in message, message
        assert 'allocate' not in message, message
        return None


@PROFILE
@given(changes=CHANGES)
def test_a_damaged_archive_is_refused_or_holds_what_it_held(files, changes):
    file = files['folder'] / 'a.pth'
    file.write_bytes(mutated(files['archive', 1], files['archive', 2], changes))
    found = read(file)
    assert found is None or same(found, content(1)) or same(found, content(2))


@PROFILE
@given(changes=CHANGES)
def test_a_changed_pickle_in_a_whole_archive(files, changes):
    """As an attacker writes it: all checksums are right."""
    (stream, storages), (other, _) = files['pickle', 1], files['pickle', 2]
    read(archive(files['folder'] / 'b.pth', mutated(stream, other, changes), storages))


@PROFILE
@given(changes=CHANGES)
def test_a_changed_file_of_the_old_format(files, changes):
    file = files['folder'] / 'c.pth'
    file.write_bytes(mutated(files['legacy', 1], files['legacy', 2], changes))
    read(file)


@PROFILE
@given(changes=CHANGES, in_header=st.booleans())
def test_a_changed_safetensors_file(files, changes, in_header):
    save = pytest.importorskip('safetensors.torch').save
    whole, other = (save({k: v.contiguous().clone() for k, v in content(i)['state_dict'].items()})
                    for i in (1, 2))  # fmt: skip
    if in_header:  # and its length is right
        end = 8 + int.from_bytes(whole[:8], 'little')
        header = mutated(whole[8:end], other[8:end], changes)
        changed = len(header).to_bytes(8, 'little') + header + whole[end:]
    else:
        changed = mutated(whole, other, changes)
    file = files['folder'] / 'd.safetensors'
    file.write_bytes(changed)
    read(file)


#: Opcodes in any order, with operands that fit them: what no writer writes.
OPCODES = [
    *[bytes([code]) for code in b'(.012NQRabdelstu]})'],
    *[bytes([code]) for code in b'\x81\x85\x86\x87\x88\x8f\x90\x91\x92\x93\x94'],
    *[b'K\x01', b'K\x02', b'J\xff\xff\xff\x7f', b'J\xff\xff\xff\xff', b'G\x7f\xf8' + bytes(6)],
    *[b'\x8a\x09' + b'\xff' * 8 + b'\x7f', b'h\x00', b'h\x01', b'q\x00', b'q\x01'],
    *[b'X' + bytes([len(text), 0, 0, 0]) + text for text in (b'storage', b'cpu', b'0', b'<i8')],
    *[b'U\x01a', b'C\x08' + bytes(8), b'B\x04\x00\x00\x00abcd'],
    *[
        b'c' + name.replace(b' ', b'\n') + b'\n'
        for name in (
            b'torch._utils _rebuild_tensor_v2', b'torch._utils _rebuild_parameter',
            b'torch FloatStorage', b'torch Size', b'torch float32', b'torch device',
            b'collections OrderedDict', b'collections Counter', b'_codecs encode', b'os system',
            b'numpy dtype', b'numpy._core.multiarray scalar', b'numpy._core.multiarray _reconstruct',
            b'mmengine.logging.history_buffer HistoryBuffer', b'__builtin__ getattr',
            b'__builtin__ list', b'__builtin__ set', b'__builtin__ bytearray',
        )
    ],
]  # fmt: skip


@PROFILE
@given(opcodes=st.lists(st.sampled_from(OPCODES), max_size=40))
def test_any_program_of_opcodes(files, opcodes):
    stream = b'\x80\x02' + b''.join(opcodes) + b'.'
    read(archive(files['folder'] / 'e.pth', stream, {'0': bytes(24)}))


def test_what_is_fuzzed_is_read_as_it_is(files):
    """Without a change, every way of writing is read back: the fuzzing begins at good files."""
    for name in ('1.pth', '1.old'):
        assert same(read_checkpoint(files['folder'] / name), content(1))
