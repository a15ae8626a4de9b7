"""Reading files that nobody vouches for: nothing in them is called, nothing they state is believed."""

import dataclasses
import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from helpers.archives import archive, parts
from helpers.rows import MINI
from paca_mm.checkpoint import read_checkpoint, read_state_dict
from paca_mm.checkpoint.read import state_dict_of, unwrap
from paca_mm.errors import UserError

WEIGHTS = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.ones(2, dtype=torch.half)}


class Saved:
    """Pickles as the call of a function, whatever the function is."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments, state)

    def __reduce__(self):
        return self.call


class _Stored(pickle.Pickler):
    """Writes ``Storage`` objects as persistent ids."""

    def persistent_id(self, obj):
        return obj.identity if isinstance(obj, Storage) else None


class Storage:
    def __init__(self, *identity):
        self.identity = identity


def pickled(obj, protocol=2):
    stream = io.BytesIO()
    _Stored(stream, protocol).dump(obj)
    return stream.getvalue()


def tensor(numel, offset, shape, strides, key='0'):
    storage = Storage('storage', torch.FloatStorage, key, 'cpu', numel)
    return Saved(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


@pytest.mark.parametrize('legacy', [False, True])
def test_what_torch_saves_is_read_as_it_was(tmp_path, legacy):
    parameter = torch.nn.Parameter(torch.ones(3))
    shared = torch.arange(12.0)
    content = {
        'state_dict': WEIGHTS,
        'views': [shared[2:8].view(2, 3), shared.view(3, 4).t(), shared[::5]],
        'parameter': parameter,
        'meta': {'epoch': 3, 'name': 'Wörter', 'set': {1, 2}, 'nothing': None, 'big': 2**70},
        'numpy': [np.float64(0.5), np.int64(-3), np.arange(6, dtype=np.int16).reshape(2, 3)],
        'size': torch.Size([1, 2]),
        'dtype': torch.bfloat16,
        'empty': torch.empty(0, 4),
    }
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(tmp_path / 'a.pth')
    assert read.keys() == content.keys()
    for key, value in WEIGHTS.items():
        assert torch.equal(read['state_dict'][key], value)
        assert read['state_dict'][key].dtype == value.dtype
    for found, expected in zip(read['views'], content['views'], strict=True):
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
    first, second, _ = read['views']
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert isinstance(read['parameter'], torch.nn.Parameter)
    assert read['meta'] == content['meta']
    assert read['numpy'][:2] == content['numpy'][:2]
    assert np.array_equal(read['numpy'][2], content['numpy'][2])
    assert (read['size'], read['dtype'], read['empty'].shape) == ((1, 2), torch.bfloat16, (0, 4))


def test_log_buffers_come_back_as_mmengine_has_them(tmp_path):
    logging = pytest.importorskip('mmengine.logging')
    buffer = logging.HistoryBuffer([1.0, 2.5, 4.0], [1, 1, 2])
    torch.save({'message_hub': {'log_scalars': {'train/loss': buffer}}}, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')['message_hub']['log_scalars']['train/loss']
    assert type(read) is logging.HistoryBuffer
    assert read.mean(3) == buffer.mean(3)
    assert read.current() == 4.0
    read.update(5.0)
    assert read.statistics('max') == 5.0


def test_the_versions_of_modules_are_carried(tmp_path):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    assert read_state_dict(tmp_path / 'a.pth')._metadata['0'] == {'version': 2}


@pytest.mark.parametrize(
    ('function', 'arguments', 'named'),
    [
        (os.system, ('touch {}',), r'(posix|nt)\.system'),
        (eval, ('open("{}", "w")',), r'builtins\.eval'),
        (getattr, (torch.Size, '__subclasses__'), r'builtins\.getattr'),
        (getattr, ('x', 'format'), r'builtins\.getattr'),
        (np.load, ('{}',), r'numpy\.load'),
        (np.fromfile, ('{}',), None),
        (np.memmap, ('{}', 'uint8', 'w+', 0, (9,)), None),
        (torch.load, ('{}',), r'torch\.serialization\.load'),
        (torch.hub.load, ('{}', 'x'), r'torch\.hub\.load'),
    ],
)
def test_no_function_is_called(tmp_path, function, arguments, named):
    mark = tmp_path / 'mark'
    arguments = tuple(a.format(mark) if isinstance(a, str) else a for a in arguments)
    file = archive(tmp_path / 'a.pth', pickled({'x': Saved(function, *arguments)}))
    if named is None:  # of a library whose bookkeeping is known: nothing comes of it
        assert repr(read_checkpoint(file)) == "{'x': <not loaded>}"
    else:
        with pytest.raises(UserError, match=f'would call .*({named})'):
            read_checkpoint(file)
    assert not mark.exists()


@pytest.mark.parametrize('kind', [bytes, bytearray])
def test_bytes_are_made_of_bytes_alone(tmp_path, kind):
    file = archive(tmp_path / 'a.pth', pickled({'x': Saved(kind, 3)}))
    with pytest.raises(UserError, match='int where bytes or bytearray belongs'):
        read_checkpoint(file)


def test_a_forged_dtype_hands_out_no_object(tmp_path):
    """An object dtype that says "no references" would make NumPy read an address as an object."""
    victim = ['secret']
    dtype = Saved(np.dtype, 'O8', False, True, state=(3, '|', None, None, None, -1, -1, 0))
    number = Saved(np.float64(0).__reduce__()[0], dtype, struct.pack('<Q', id(victim)))
    read = read_checkpoint(archive(tmp_path / 'a.pth', pickled({'x': number})))
    assert repr(read['x']) == '<not loaded>'


def test_a_state_is_taken_by_nothing_but_ours(tmp_path):
    storage = {'0': bytes(24)}
    forged = Saved(dict, state={'__class__': 1})
    for target in (forged, Saved(torch.Size, (1,), state={'x': 1})):
        file = archive(tmp_path / 'a.pth', pickled(target), storage)
        with pytest.raises(UserError, match='a state for an object'):
            read_checkpoint(file)
    held = Saved(torch.nn.parameter.Parameter, tensor(6, 0, (6,), (1,)), state={'grad_fn': 1})
    with pytest.raises(UserError, match='a state for an object'):
        read_checkpoint(archive(tmp_path / 'a.pth', pickled(held), storage))


@pytest.mark.parametrize(
    ('numel', 'offset', 'shape', 'strides'),
    [
        (6, 0, (7,), (1,)),
        (6, 3, (4,), (1,)),
        (6, 0, (2, 2), (5, 1)),
        (6, -2, (2,), (1,)),
        (6, 0, (2,), (-1,)),
        (6, 0, (-2,), (1,)),
        (6, 0, (2**62, 2**62), (0, 0)),
        (7, 0, (7,), (1,)),  # more than the record holds
        (2**60, 0, (1,), (1,)),
    ],
)
def test_tensors_lie_within_their_storage(tmp_path, numel, offset, shape, strides):
    file = archive(
        tmp_path / 'a.pth', pickled({'w': tensor(numel, offset, shape, strides)}), {'0': bytes(24)}
    )
    with pytest.raises(UserError, match=r'storage|impossible shape'):
        read_checkpoint(file)


def test_storages_of_the_old_format_are_not_larger_than_the_file(tmp_path):
    torch.save(WEIGHTS, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'a.pth').read_bytes()
    forged = content.replace(b'K\x06Nt', b'J\x00\x00\x00\x7fNt')
    assert forged != content
    (tmp_path / 'a.pth').write_bytes(forged)
    with pytest.raises(UserError, match='larger than the file'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('kind', ['module', 'eval', 7])
def test_nothing_but_storages_is_persistent(tmp_path, kind):
    identity = Storage(kind, torch.FloatStorage, '0', 'cpu', 6)
    with pytest.raises(UserError, match='the persistent object'):
        read_checkpoint(archive(tmp_path / 'a.pth', pickled({'w': identity}), {'0': bytes(24)}))


def test_a_short_file_makes_no_large_one(tmp_path):
    stream = b'\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.'  # bytearray(2 ** 31 - 1)
    with pytest.raises(UserError, match='cannot be read'):
        read_checkpoint(archive(tmp_path / 'a.pth', stream))
    # A list of a thousand, copied ten thousand times.
    copies = b'c__builtin__\ntuple\nq\x01(' + b'h\x01h\x00\x85R' * 10000 + b't.'
    stream = b'\x80\x02](' + b'K\x00' * 1000 + b'eq\x00' + copies
    with pytest.raises(UserError, match='many times its size'):
        read_checkpoint(archive(tmp_path / 'a.pth', stream))
    with pytest.raises(UserError, match='would unfold to'):
        read_checkpoint(
            archive(tmp_path / 'b.pth', b'\x80\x02N.', {'0': bytes(10**7)}, zipfile.ZIP_DEFLATED)
        )


@pytest.mark.parametrize('opener', [b'](', b'}K\x00', b'('])
def test_deep_nesting_ends_in_the_message(tmp_path, opener):
    closer = {b'](': b'e', b'}K\x00': b's', b'(': b't'}[opener]
    stream = b'\x80\x02' + opener * 100_000 + b'N' + closer * 100_000 + b'.'
    with pytest.raises(UserError, match='nested more than'):
        read_checkpoint(archive(tmp_path / 'a.pth', stream))


def test_every_cut_and_every_flipped_byte_of_the_pickle_is_survived(tmp_path):
    """Whatever a damaged pickle says, it is a message or a value, and no crash."""
    torch.save({'state_dict': WEIGHTS, 'meta': {'n': np.float32(1)}}, tmp_path / 'good.pth')
    whole, storages = parts(tmp_path / 'good.pth')
    broken = [whole[:n] for n in range(0, len(whole), 7)]
    broken += [whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :] for n in range(len(whole))]
    for stream in broken:
        file = archive(tmp_path / 'a.pth', stream, storages)
        try:
            read_checkpoint(file)
        except UserError:
            continue


@pytest.mark.timeout(60)  # who opens the pipe waits for ever
def test_what_is_no_file_or_another_archive(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    for path in (tmp_path / 'pipe.pth', '/dev/zero'):
        with pytest.raises(UserError, match='a pipe, a socket or a device'):
            read_checkpoint(path)
    with tarfile.open(tmp_path / 'old.pth', 'w') as file:
        link = tarfile.TarInfo('pickle')
        link.type, link.linkname = tarfile.LNKTYPE, '/etc/passwd'
        file.addfile(link)
    with pytest.raises(UserError, match='does not begin as a file of torch'):
        read_checkpoint(tmp_path / 'old.pth')
    (tmp_path / 'list.pth').write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match='does not begin as a file of torch'):
        read_checkpoint(tmp_path / 'list.pth')


PAGE = 4096  # bytes, what a file system or a disk loses at a time


@pytest.fixture(scope='module')
def run_file(tmp_path_factory):
    """A checkpoint of a run, in bytes: weights, optimizer, bookkeeping; none of the numbers is 0."""
    weights = {f'layer{i}.weight': torch.rand(64, 128) + 1 for i in range(12)}
    moments = {i: dict(step=torch.tensor(3.0), exp_avg=torch.rand(64, 128) + 1) for i in range(12)}
    file = tmp_path_factory.mktemp('run') / 'epoch_1.pth'
    torch.save({'state_dict': weights, 'optimizer': {'state': moments}, 'meta': {'iter': 9}}, file)
    return file.read_bytes()


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    return found == expected


def test_a_zeroed_page_is_seen_wherever_it_is(tmp_path, run_file):
    """What a power cut leaves: 60 places, each refused, or one that holds nothing that is loaded."""
    file = tmp_path / 'a.pth'
    file.write_bytes(run_file)
    whole = read_checkpoint(file)
    refused = 0
    for at in range(0, len(run_file), len(run_file) // 60):
        content, page = bytearray(run_file), slice(at // PAGE * PAGE, (at // PAGE + 1) * PAGE)
        content[page] = bytes(len(content[page]))
        file.write_bytes(content)
        try:
            assert same(read_checkpoint(file), whole)
        except UserError:
            refused += 1
    assert refused >= 59


def test_damage_inside_an_archive_is_named_as_such(tmp_path, run_file, monkeypatch):
    content = bytearray(run_file)
    at = len(content) // 2
    content[at] ^= 1  # a bit of a number
    file = tmp_path / 'a.pth'
    file.write_bytes(content)
    message = r'a\.pth is damaged: it has its \d+ bytes, but .*CRC-32 for file .*/data/\d+'
    with pytest.raises(UserError, match=message):
        read_checkpoint(file)
    monkeypatch.setenv('PACA_MM_SKIP_CRC', '1')
    assert read_checkpoint(file)['meta'] == {'iter': 9}
    monkeypatch.setenv('PACA_MM_SKIP_CRC', '0')
    with pytest.raises(UserError, match=message):
        read_checkpoint(file)


def test_a_file_without_checksums_is_read_with_the_switch(tmp_path, monkeypatch):
    """torch can be told to write other numbers in their place."""
    serialization = pytest.importorskip('torch.serialization')
    if not hasattr(serialization, 'set_crc32_options'):
        pytest.skip('this torch always writes them')
    serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / 'a.pth')
    finally:
        serialization.set_crc32_options(True)
    monkeypatch.setenv('PACA_MM_SKIP_CRC', '1')
    assert same(dict(read_checkpoint(tmp_path / 'a.pth')), WEIGHTS)


def test_what_the_disk_cannot_give_is_a_message(tmp_path, monkeypatch):
    torch.save(WEIGHTS, tmp_path / 'a.pth')

    def broken(*args):
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr('zipfile.is_zipfile', broken)
    with pytest.raises(UserError, match=r'a\.pth cannot be read \(Input/output error\)'):
        read_checkpoint(tmp_path / 'a.pth')


def test_no_pickle_of_python_is_left(tmp_path, monkeypatch):
    """The reader does not go through Python's unpickler or torch's loader in any way."""
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    for module, name in ((pickle, 'Unpickler'), (pickle, 'load'), (torch, 'load')):
        monkeypatch.setattr(module, name, None)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # torch's own switch has no say either
    assert read_checkpoint(tmp_path / 'a.pth').keys() == WEIGHTS.keys()
    assert pickletools.genops  # which only takes a pickle apart


@pytest.mark.parametrize('name', ['state_dict_ema', 'model_ema', 'ema_state_dict'])
def test_averaged_weights_are_found(name):
    content = {name: {f'module.{k}': v for k, v in WEIGHTS.items()}, 'epoch': 3}
    if name == 'ema_state_dict':  # mmengine counts how often it has averaged
        content[name]['steps'] = torch.tensor(5)
    state, taken = unwrap(content, 'a file')
    assert (state.keys(), taken) == (WEIGHTS.keys(), name)


def test_a_layout_may_prefer_the_averaged_weights():
    content = {'state_dict': {'w': torch.zeros(1)}, 'state_dict_ema': {'w': torch.ones(1)}}
    assert state_dict_of(content, 'a file')['w'] == 0
    assert state_dict_of(content, 'a file', prefer=('state_dict_ema',))['w'] == 1


def test_a_wrapper_without_tensors_is_passed_over():
    content = {'model': {}, 'state_dict_ema': WEIGHTS}
    assert unwrap(content, 'a file')[1] == 'state_dict_ema'


def test_reports_say_which_weights_were_taken(tmp_path, monkeypatch):
    from paca_mm.checkpoint import load_pretrained, load_whole
    from paca_mm.models import PaCaViT

    monkeypatch.setattr(
        PaCaViT, 'layout', dataclasses.replace(PaCaViT.layout, prefer=('state_dict_ema',))
    )
    model, raw, averaged = (PaCaViT(arch=MINI) for _ in range(3))
    content = {'state_dict': raw.state_dict(), 'state_dict_ema': averaged.state_dict()}
    torch.save(content, tmp_path / 'a.pth')
    for report in (
        load_pretrained(model, tmp_path / 'a.pth'),
        load_whole(model, content, 'a.pth', strict=True),
    ):
        assert report.wrapper == 'state_dict_ema'
        assert '(state_dict_ema)' in str(report)
        for key, value in model.state_dict().items():
            assert torch.equal(value, averaged.state_dict()[key])


@pytest.mark.parametrize(
    'stream',
    [
        b'\x80\x02}' + b')' + b'2\x86' * 60 + b'Ns.',  # a tuple of itself twice, 60 deep, as a key
        b'\x80\x02\x8f(N' + b'\x85' * 100_000 + b'\x90.',  # 100,000 tuples in each other in a set
        b'\x80\x02ccollections\nCounter\n)R(X\x01\x00\x00\x00aX\x01\x00\x00\x00bu.',
        b'\x80\x02ctorch\nSize\nq\x01](' + b'K\x01' * 1000 + b'eq\x000('
        + b'h\x01h\x00\x85R' * 10000 + b't.',
    ],
    ids=['tuples', 'deep', 'counter', 'size'],
)  # fmt: skip
def test_what_is_costly_to_build_is_refused_at_once(tmp_path, stream):
    with pytest.raises(UserError, match='cannot be read'):
        read_checkpoint(archive(tmp_path / 'a.pth', stream))


def test_one_buffer_named_many_times_is_one_buffer(tmp_path):
    logging = pytest.importorskip('mmengine.logging')
    buffer = logging.HistoryBuffer([1.0] * 1000, [1] * 1000)
    torch.save({'x': [buffer] * 1000}, tmp_path / 'a.pth')
    first, *others = read_checkpoint(tmp_path / 'a.pth')['x']
    assert all(other is first for other in others)


def test_other_compressions_are_refused(tmp_path):
    file = archive(tmp_path / 'a.pth', b'\x80\x02N.', {}, zipfile.ZIP_BZIP2)
    with pytest.raises(UserError, match='in a way that torch does not use'):
        read_checkpoint(file)
