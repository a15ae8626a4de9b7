"""Checkpoints at a URL: whose file is whose, what is complete, and what becomes of the rest."""

import hashlib
import http.server
import io
import multiprocessing
import threading
import time
from collections import Counter

import pytest
import torch

from paca_mm.checkpoint import read_checkpoint
from paca_mm.checkpoint.download import downloaded, hash_in, kept_name
from paca_mm.errors import UserError


def saved(value):
    stream = io.BytesIO()
    torch.save({'w': torch.full((1000,), float(value))}, stream)
    return stream.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Answers with ``files``, by path: bytes, or (the length that is stated, bytes)."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.files, self.asked, self.slow = {}, Counter(), 0
        self.url = f'http://127.0.0.1:{self.server_port}'


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked[self.path] += 1
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[self.path]
        length, content = content if isinstance(content, tuple) else (len(content), content)
        self.send_response(200)
        if length is not None:
            self.send_header('Content-Length', str(length))
        self.end_headers()
        time.sleep(self.server.slow)
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def kept(tmp_path):
    """The names of what is kept, those of unfinished files included; not the lock's."""
    folder = tmp_path / 'torch/hub/checkpoints'
    return lambda: sorted({p.name for p in folder.glob('*')} - {'.paca_mm.lock'})


def test_two_urls_are_two_files(server, kept):
    paths = ['/a/epoch_12.pth', '/b/epoch_12.pth', '/b/epoch_12.pth?run=2']
    server.files = {path: saved(i) for i, path in enumerate(paths)}
    for _ in range(2):  # the second time from where they are kept
        for i, path in enumerate(paths):
            assert read_checkpoint(server.url + path)['w'][0] == i
    assert set(server.asked.values()) == {1}
    assert kept() == sorted(kept_name(server.url + path) for path in paths)
    assert all(name.startswith('epoch_12.') and name.endswith('.pth') for name in kept())


def test_a_name_with_a_hash_is_kept_as_it_is_and_compared(server, kept):
    content = saved(1)
    digest = hashlib.sha256(content).hexdigest()
    right, wrong = f'/a/net-{digest[:8]}.pth', '/a/net-00000000.pth'
    server.files = {right: content, wrong: content}
    assert read_checkpoint(server.url + right)['w'][0] == 1
    message = rf'not what its name says.*begins with {digest[:8]}, not with 00000000'
    with pytest.raises(UserError, match=message):
        read_checkpoint(server.url + wrong)
    assert kept() == [f'net-{digest[:8]}.pth']


def test_a_kept_file_that_is_not_what_its_name_says_is_named(server, tmp_path):
    """Somebody else's download under the same name, torch hub's say, which compares nothing."""
    server.files = {'/net-00000000.pth': saved(1)}
    file = tmp_path / 'torch/hub/checkpoints/net-00000000.pth'
    file.parent.mkdir(parents=True)
    file.write_bytes(saved(2))
    with pytest.raises(UserError, match=rf'(?s){file} is not what its name says.*remove that file'):
        read_checkpoint(f'{server.url}/net-00000000.pth')
    assert not server.asked


def test_a_plain_name_that_another_program_kept_is_not_taken(server, tmp_path):
    server.files = {'/epoch_1.pth': saved(1)}
    other = tmp_path / 'torch/hub/checkpoints/epoch_1.pth'
    other.parent.mkdir(parents=True)
    other.write_bytes(saved(2))
    assert read_checkpoint(f'{server.url}/epoch_1.pth')['w'][0] == 1
    assert other.read_bytes() == saved(2)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('short.pth', (5000, saved(1)[:2000]), r'cannot be downloaded \(2000 of 5000 bytes came\)'),
        ('empty.pth', b'', r'cannot be downloaded \(0 of 0 bytes came\)'),
        ('page.pth', b'\n<!DOCTYPE html><p>log in', 'is no checkpoint but a web page'),
        ('fault.pth', b'<?xml version="1.0"?><Error>', 'is no checkpoint but a web page'),
        ('lfs.pth', b'version https://git-lfs.github.com/spec/v1', 'text that stands for one'),
        ('gone.pth', None, r'cannot be downloaded \(HTTP Error 404'),
        ('', b'index', 'names no file'),
    ],
)
def test_what_is_no_complete_file_is_not_kept(server, kept, name, content, message):
    if content is not None:
        server.files[f'/{name}'] = content
    with pytest.raises(UserError, match=message):
        read_checkpoint(f'{server.url}/{name}')
    assert kept() == []


def test_a_file_without_a_length_is_read(server):
    server.files['/a.pth'] = (None, saved(3))
    assert read_checkpoint(f'{server.url}/a.pth')['w'][0] == 3


def test_a_bad_kept_file_is_named_with_its_path(server, kept, tmp_path):
    server.files['/a.pth'] = saved(1)
    file = downloaded(f'{server.url}/a.pth')
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf'(?s)is torn.*it is read from {file}.*remove that file'):
        read_checkpoint(f'{server.url}/a.pth')
    file.unlink()
    assert read_checkpoint(f'{server.url}/a.pth')['w'][0] == 1


def test_an_interrupted_download_leaves_nothing(server, kept, monkeypatch):
    server.files['/a.pth'] = saved(1)

    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('paca_mm.checkpoint.download.is_text_instead', stopped)
        with pytest.raises(KeyboardInterrupt):
            downloaded(f'{server.url}/a.pth')
    assert kept() == []


def test_what_a_killed_download_left_goes_with_the_next(server, kept, tmp_path):
    server.files['/a.pth'] = saved(1)
    name = kept_name(f'{server.url}/a.pth')
    folder = tmp_path / 'torch/hub/checkpoints'
    folder.mkdir(parents=True)
    (folder / f'.{name}.0123.part').write_bytes(b'half')
    (folder / '.another.pth.0123.part').write_bytes(b'half')
    downloaded(f'{server.url}/a.pth')
    assert kept() == sorted([name, '.another.pth.0123.part'])


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    server.files['/a.pth'] = saved(1)
    (tmp_path / 'file').touch()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(UserError, match=r'(?s)cannot be kept in .*TORCH_HOME=DIR'):
        read_checkpoint(f'{server.url}/a.pth')


def _read(url, queue):
    queue.put(float(read_checkpoint(url)['w'][0]))


def test_two_processes_fetch_a_file_once(server, kept):
    server.files['/a.pth'], server.slow = saved(7), 0.5
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    url = f'{server.url}/a.pth'
    processes = [context.Process(target=_read, args=(url, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [7.0] * 3
    for process in processes:
        process.join()
    assert server.asked == {'/a.pth': 1}
    assert kept() == [kept_name(url)]


@pytest.mark.parametrize(
    ('url', 'name'),
    [
        ('http://a/x/net-1a2b3c4d.pth', 'net-1a2b3c4d.pth'),
        ('http://a/x/net_8xb32_20210831-ea4938fc.pth#part', 'net_8xb32_20210831-ea4938fc.pth'),
        ('http://a/net-20210831.pth', None),  # a date
        ('http://a/get?id=3', None),
        ('http://a/..%2F..%2Fa b.pth', None),
        ('http://a/' + 'long' * 100 + '.pth', None),
    ],
)
def test_names(url, name):
    found = kept_name(url)
    assert found == name or (name is None and hash_in(url.rpartition('/')[2]) is None)
    assert '/' not in found
    assert len(found) < 200
    assert ' ' not in found
