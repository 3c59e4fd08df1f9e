"""A server that speaks S3 on loopback (moto's), and a wire to it that can be cut in the middle of a transfer."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bench.storage.places import Remote

BUCKET = "bench"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def options(port: int) -> str:
    """What an address says after its question mark to mean the server at this port."""
    return f"endpoint_override=http://127.0.0.1:{port}&region=us-east-1"


@contextmanager
def serving() -> Iterator[int]:
    """The server with an empty bucket; gives its port. The keys of this process fit it."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in KEYS.items():
            environment.setenv(name, value)
        environment.delenv("AWS_PROFILE", raising=False)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            _, port = server.get_host_and_port()
            client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
            client.create_bucket(Bucket=BUCKET)
            yield port
        finally:
            server.stop()


@dataclass
class Wire:
    """Passes bytes to a server and back; the next `cuts` connections break once they have carried `carry` bytes."""

    server: int
    port: int = 0
    cuts: int = 0
    carry: int = 100_000
    broken: int = 0
    _socket: socket.socket = field(default_factory=socket.socket)

    def __enter__(self) -> "Wire":
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(("127.0.0.1", self.server), timeout=60)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        carried = 0
        with suppress(OSError), closing(source), closing(target):
            while content := source.recv(65536):
                carried += len(content)
                if self.cuts and carried > self.carry:
                    self.cuts -= 1
                    self.broken += 1
                    for end in (source, target):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(content)


def remote(port: int, prefix: str) -> Remote:
    return Remote(f"{BUCKET}/{prefix}", options(port))
