"""A page in a headless browser: clicks, taps, keys, pictures, by the DevTools protocol over two pipes.

It needs no package, only a Chromium or a Chrome.
"""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from contextlib import suppress

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')

FLAGS = (
    *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'),
    *('--disable-background-networking', '--disable-component-update', '--disable-sync'),
    *('--disable-dev-shm-usage', '--hide-scrollbars', '--force-device-scale-factor=1'),
)


def browser():
    """The program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def _from_ten(descriptor):
    """A descriptor that is no smaller number, so that those the browser wants are free."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


class Page:
    """A page of a file, in a browser of its own that no network reaches.

    Args:
        file: The page.
        profile: A folder for what the browser keeps.
        width: Of the window.
        height: Of the window.
        touch: Whether it is a phone.
        fragment: What stands behind ``#`` in the address.
    """

    def __init__(self, file, profile, width=1200, height=900, touch=False, fragment=''):
        to_browser, write = map(_from_ten, os.pipe())
        read, from_browser = map(_from_ten, os.pipe())
        program = browser()
        self._process = os.posix_spawn(
            program,
            [program, *FLAGS, '--remote-debugging-pipe', f'--user-data-dir={profile}'],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, to_browser, 3),  # where it reads commands
                (os.POSIX_SPAWN_DUP2, from_browser, 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        os.close(to_browser)
        os.close(from_browser)
        self._write, self._read, self._rest = write, read, b''
        self._numbers, self._session = itertools.count(1), None
        self.events = []
        try:
            self._open(file, width, height, touch, fragment)
        except BaseException:
            self.__exit__()
            raise

    def _open(self, file, width, height, touch, fragment):
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        attached = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.send(f'{domain}.enable')
        self.send(
            'Network.emulateNetworkConditions',
            offline=True, latency=0, downloadThroughput=0, uploadThroughput=0,
        )  # fmt: skip
        self.send(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=touch,
        )  # fmt: skip
        if touch:
            self.send('Emulation.setTouchEmulationEnabled', enabled=True)
        self.send(
            'Page.navigate', url=file.resolve().as_uri() + (f'#{fragment}' if fragment else '')
        )
        self.wait_for('document.body && document.body.dataset.ready')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        close = dict(id=next(self._numbers), method='Browser.close')
        with suppress(OSError):
            os.write(self._write, json.dumps(close).encode() + b'\0')
        ends = time.monotonic() + 10
        while os.waitpid(self._process, os.WNOHANG) == (0, 0):
            if time.monotonic() > ends:
                os.kill(self._process, signal.SIGKILL)
            time.sleep(0.02)
        os.close(self._write)
        os.close(self._read)

    def send(self, method, **params):
        """A command, and what it answers."""
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._next()
            if answer.get('id') == number:
                assert 'error' not in answer, answer
                return answer['result']
            self.events.append(answer)

    def _next(self):
        while b'\0' not in self._rest:
            ready, _, _ = select.select([self._read], [], [], 120)
            assert ready, 'the browser does not answer'
            chunk = os.read(self._read, 1 << 20)
            assert chunk, 'the browser has ended'
            self._rest += chunk
        message, self._rest = self._rest.split(b'\0', 1)
        return json.loads(message)

    def run(self, script):
        """The value of an expression of JavaScript."""
        found = self.send('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in found, found['exceptionDetails']
        return found['result'].get('value')

    def wait_for(self, script, seconds=30):
        """Until an expression is true."""
        ends = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < ends, f'not true in {seconds} s: {script}'
            time.sleep(0.05)

    def place(self, selector, x=0.5, y=0.5):
        """A point of an element, in pixels of the window, scrolled to where it can be seen."""
        script = (
            f'(() => {{ const e = document.querySelector({selector!r}); '
            "e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect(); "
            f'return [b.left + {x} * b.width, b.top + {y} * b.height]; }})()'
        )
        return self.run(script)

    def move(self, selector, x=0.5, y=0.5):
        """The mouse over a point of an element."""
        left, top = self.place(selector, x, y)
        self.send('Input.dispatchMouseEvent', type='mouseMoved', x=left, y=top)
        time.sleep(0.1)  # the page draws with the next picture

    def click(self, selector, x=0.5, y=0.5):
        """A click of the mouse on a point of an element."""
        left, top = self.place(selector, x, y)
        for kind, buttons in (('mouseMoved', 0), ('mousePressed', 1), ('mouseReleased', 0)):
            self.send(
                'Input.dispatchMouseEvent',
                type=kind, x=left, y=top, button='none' if kind == 'mouseMoved' else 'left',
                buttons=buttons, clickCount=int(kind != 'mouseMoved'),
            )  # fmt: skip

    def tap(self, selector, x=0.5, y=0.5):
        """A tap of a finger on a point of an element."""
        left, top = self.place(selector, x, y)
        self.send('Input.dispatchTouchEvent', type='touchStart', touchPoints=[dict(x=left, y=top)])
        self.send('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])

    def key(self, key):
        """A key, pressed and released."""
        text = key if len(key) == 1 else ''
        self.send('Input.dispatchKeyEvent', type='keyDown', key=key, text=text)
        self.send('Input.dispatchKeyEvent', type='keyUp', key=key)

    def picture(self, file=None):
        """The window as the bytes of a PNG file, which may also be written."""
        content = base64.b64decode(self.send('Page.captureScreenshot', format='png')['data'])
        if file is not None:
            file.write_bytes(content)
        return content

    def faults(self):
        """What the page logged as errors, and the addresses that it asked for beyond itself."""
        self.run('0')
        found = []
        for event in self.events:
            method, params = event.get('method'), event.get('params', {})
            if method == 'Runtime.exceptionThrown':
                found.append(params['exceptionDetails'].get('exception', {}).get('description'))
            elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
                found.append(params['entry']['text'])
            elif method == 'Network.requestWillBeSent':
                url = params['request']['url']
                if not url.startswith(('file:', 'data:', 'about:')):
                    found.append(url)
        return found
