"""A results directory in an object store: S3 and what speaks its protocol, Google Cloud Storage.

An object is put whole or not at all, and is there for everybody once it is put; names are listed as they are. There is
no lock to ask for, so one is made of objects: who wants it puts a token beside those of the others, and has it where
the list shows no other. Tokens of the dead are known by their age, on the store's own clock.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, final

import pyarrow as pa
from pyarrow import fs

from fipray.errors import RecordsError, UsageError
from fipray.printable import without_credentials
from fipray.records.layout import LOCK_TOKENS, claim_name

_SCHEMES = {"s3": "s3://bucket/directory", "gs": "gs://bucket/directory"}
_IN_ONE_PUT = ("?allow_delayed_open=true", "&allow_delayed_open=true")  # instead of a start, a part and an end
_STALE_SECONDS = 30.0  # who has not renewed a token for so long is dead
_PATIENCE_SECONDS = 90.0


@final
@dataclass(frozen=True)
class ObjectFiles:
    """The objects below a prefix. Implements `Files`; opened again from its address wherever it is unpickled."""

    location: str = field(repr=False)
    root: str
    store: Any

    @classmethod
    def at(cls, address: str) -> ObjectFiles:
        """From an address such as s3://bucket/results?region=eu-west-1, or, for a store that speaks S3's protocol,
        s3://bucket/results?endpoint_override=HOST:PORT&scheme=http.
        Credentials are found as the store's own tools find them, or stand before the bucket: s3://KEY:SECRET@bucket/x.

        Raises UsageError for an address of nothing that is known, RecordsError where the store does not answer.
        """
        scheme, _, rest = address.partition("://")
        if scheme not in _SCHEMES or not rest.partition("?")[0].strip("/").partition("/")[2]:
            raise UsageError(
                f"{address!r} is no address of results: they are {', '.join(_SCHEMES.values())}, or a directory. An "
                "endpoint goes behind it: s3://bucket/directory?endpoint_override=HOST:PORT&scheme=http"
            )
        try:
            store, root = fs.FileSystem.from_uri(address + _IN_ONE_PUT["?" in rest] if scheme == "s3" else address)
        except (OSError, pa.ArrowException) as error:
            raise RecordsError(f"{address} cannot be used: {error}") from None  # it quotes the credentials
        return cls(address, root.rstrip("/"), store)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return ObjectFiles.at, (self.location,)

    @property
    def address(self) -> str:
        return without_credentials(self.location)

    def beside(self, name: str) -> tuple[str, Any]:
        return f"{self.root}/{name}", self.store

    @property
    def num_at_once(self) -> int:
        return 32

    def make(self) -> None:
        bucket = self.root.partition("/")[0]
        with self._said(f"use {self.address}"):
            if self.store.get_file_info(bucket).type == fs.FileType.NotFound:
                raise RecordsError(f"there is no bucket {bucket!r} for {self.address}. Make it first, or name another")

    def read(self, file: str) -> bytes:
        with self._said(f"read {self.named(file)}"), self.store.open_input_file(f"{self.root}/{file}") as stream:
            return stream.read()

    def write(self, file: str, content: bytes) -> None:
        with self._said(f"write {self.named(file)}"):
            # Not as a context: leaving one on an error would put what was written so far.
            stream = self.store.open_output_stream(f"{self.root}/{file}")
            stream.write(content)
            stream.close()

    def exists(self, file: str) -> bool:
        with self._said(f"look for {self.named(file)}"):
            return bool(self.store.get_file_info(f"{self.root}/{file}").type == fs.FileType.File)

    def remove(self, file: str) -> None:
        with self._said(f"remove {self.named(file)}"), suppress(FileNotFoundError):
            self.store.delete_file(f"{self.root}/{file}")

    def names(self, directory: str) -> list[str]:
        return [info.base_name for info in self._infos(directory)]

    def claim(self, directory: str) -> bool:
        if self.names(directory):
            return False
        name = claim_name(secrets.token_hex(8))
        self.write(f"{directory}/{name}", b"")
        if self.names(directory) == [name]:
            return True
        self.remove(f"{directory}/{name}")
        time.sleep(random.uniform(0.0, 0.2))  # so that two who met do not meet again
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        mine = secrets.token_hex(8)
        token = f"{LOCK_TOKENS}/{mine}"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        self.write(token, b"")
        try:
            while others := self._others(mine):
                if time.monotonic() > deadline:
                    raise RecordsError(
                        f"other processes have held {self.named(LOCK_TOKENS)} for {_PATIENCE_SECONDS:g} s"
                    )
                if min(others) < mine:  # of those who wait, one stays in line and the others step back
                    self.remove(token)
                time.sleep(random.uniform(0.05, 0.25))
                self.write(token, b"")  # anew, so that its age tells the time
            with self._kept_fresh(token):
                yield
        finally:
            self.remove(token)

    @contextmanager
    def _kept_fresh(self, token: str) -> Iterator[None]:
        """Writes the token anew now and then, however long its holder takes: only the dead let it grow old."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(_STALE_SECONDS / 5):
                with suppress(RecordsError):
                    self.write(token, b"")

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _others(self, mine: str) -> list[str]:
        """Tokens of others who live; those of the dead are removed."""
        infos = {info.base_name: info for info in self._infos(LOCK_TOKENS)}
        if mine not in infos:  # taken for dead, after a long pause
            self.write(f"{LOCK_TOKENS}/{mine}", b"")
            return [*infos, mine]
        now = infos.pop(mine).mtime
        stale = [name for name, info in infos.items() if (now - info.mtime).total_seconds() > _STALE_SECONDS]
        for name in stale:
            self.remove(f"{LOCK_TOKENS}/{name}")
        return [name for name in infos if name not in stale]

    def remove_leftovers(self) -> None:
        """Nothing: an object that was not finished was never there."""

    def _infos(self, directory: str) -> list[Any]:
        place = f"{self.root}/{directory}".rstrip("/")
        with self._said(f"list {self.named(directory)}"):
            infos = self.store.get_file_info(fs.FileSelector(place, allow_not_found=True))
        return [info for info in infos if info.base_name]

    def named(self, file: str) -> str:
        return f"{self.address.partition('?')[0].rstrip('/')}/{file}"

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """What the store complains of, as a sentence."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise RecordsError(
                f"could not {what}: {error}. Nothing of it was kept. Is the store reachable, and are the credentials "
                "right? Then run the same command again"
            ) from error
