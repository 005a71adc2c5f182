"""An S3 server on the loopback, and writers that are killed between two requests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from lunarray.store.buckets import Bucket, Within, ZarrBucket

#: Who one is to a server that asks nobody.
WHO = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "hush-hush",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto in a process of its own, with a bucket named ``bucket``; gives its URL. Skips where it is not there."""
    pytest.importorskip("obstore", reason="needs obstore (extra cloud)")
    pytest.importorskip("moto.server", reason="needs moto[server] (extra test)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5)
                break
            time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=5)
        yield url
    finally:
        server.kill()
        server.wait()


class Stopped(BaseException):
    """Stands for the end of a process: nothing that it does after that has any effect."""


class Stops:
    """Stops a writer before or after one of its changes to an object store.

    `at`: which one, 2 n before the n-th and 2 n + 1 after it; -1 only counts; `how`: called then.
    """

    def __init__(self, at: int = -1, how: Callable[[], None] | None = None) -> None:
        self.at, self.how = at, how
        self.points = 0
        self.dead = False
        self._lock = threading.Lock()

    def _pass(self) -> None:
        with self._lock:
            if self.dead:
                raise Stopped
            self.points += 1
            if self.points - 1 != self.at:
                return
            self.dead = True
        if self.how is not None:
            self.how()
        raise Stopped

    @contextmanager
    def watching(self) -> Iterator[Stops]:
        with pytest.MonkeyPatch.context() as patch:
            for kind in (Bucket, ZarrBucket):
                for name in ("put", "_put_if", "delete", "copy"):
                    patch.setattr(kind, name, self._changed(getattr(kind, name)))
            write = Within.set

            async def set_object(within, key, value):
                self._pass()
                await write(within, key, value)
                self._pass()

            patch.setattr(Within, "set", set_object)
            yield self

    def _changed(self, change):
        def changed(*args):
            self._pass()
            done = change(*args)
            self._pass()
            return done

        return changed


def by_a_signal() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def by_leaving() -> None:
    os._exit(9)
