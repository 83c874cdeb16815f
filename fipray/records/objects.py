"""Results directories in object stores: S3 and compatible stores, and Google Cloud Storage.

These stores put an object atomically, and reading and listing are strongly consistent. They have no locks, so one is
built from objects: a process that wants the lock puts a token, and holds the lock once a listing shows no other token.
Tokens of dead processes are recognised by their age on the store's clock.
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
# One PUT request instead of a multipart upload of three requests. The tuple is indexed by whether there is a query.
_IN_ONE_PUT = ("?allow_delayed_open=true", "&allow_delayed_open=true")
_STALE_SECONDS = 30.0  # age of a token whose holder counts as dead
# Longer than _STALE_SECONDS, so that the token of a process that died never makes others give up.
_PATIENCE_SECONDS = 90.0


@final
@dataclass(frozen=True)
class ObjectFiles:
    """Objects below a prefix. Implements `Files`; unpickling opens the address again.

    Args:
        location: address, which may contain credentials.
        root: bucket and prefix.
        store: pyarrow file system.
    """

    location: str = field(repr=False)
    root: str
    store: Any

    @classmethod
    def at(cls, address: str) -> ObjectFiles:
        """Open an address.

        Args:
            address: address such as s3://bucket/results?region=eu-west-1, for an S3-compatible store
                s3://bucket/results?endpoint_override=HOST:PORT&scheme=http. Credentials are found as the store's own
                tools find them, or stand before the bucket: s3://KEY:SECRET@bucket/results.

        Returns:
            The objects below the address.

        Raises:
            UsageError: for an address of an unknown form.
            RecordsError: if the store cannot be used.
        """
        scheme, _, rest = address.partition("://")
        if scheme not in _SCHEMES or not rest.partition("?")[0].strip("/").partition("/")[2]:
            raise UsageError(
                f"{address!r} is not an address of results: use {', '.join(_SCHEMES.values())}, or a directory. Give an"
                " endpoint as a parameter: s3://bucket/directory?endpoint_override=HOST:PORT&scheme=http"
            )
        try:
            store, root = fs.FileSystem.from_uri(address + _IN_ONE_PUT["?" in rest] if scheme == "s3" else address)
        except (OSError, pa.ArrowException) as error:
            raise RecordsError(f"{address} cannot be used: {error}") from None  # the original quotes credentials
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
        # A directory is only a prefix of names in an object store: nothing but the bucket has to exist.
        bucket = self.root.partition("/")[0]
        with self._said(f"use {self.address}"):
            if self.store.get_file_info(bucket).type == fs.FileType.NotFound:
                raise RecordsError(
                    f"there is no bucket {bucket!r} for {self.address}. Create it first, or name another one"
                )

    def read(self, file: str) -> bytes:
        with self._said(f"read {self.named(file)}"), self.store.open_input_file(f"{self.root}/{file}") as stream:
            return stream.read()

    def write(self, file: str, content: bytes) -> None:
        with self._said(f"write {self.named(file)}"):
            # Not as a context manager: leaving it on an error would put the part that was written so far.
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
        # Whoever finds its own claim alone has the directory. Two that meet both withdraw, and try another number.
        if self.names(directory):
            return False
        name = claim_name(secrets.token_hex(8))
        self.write(f"{directory}/{name}", b"")
        if self.names(directory) == [name]:
            return True
        self.remove(f"{directory}/{name}")
        time.sleep(random.uniform(0.0, 0.2))  # so that these two do not meet again
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        mine = secrets.token_hex(8)
        token = f"{LOCK_TOKENS}/{mine}"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        # Put before the first listing: of two processes, the one that puts later then sees the token of the other.
        self.write(token, b"")
        try:
            while others := self._others(mine):
                if time.monotonic() > deadline:
                    raise RecordsError(
                        f"other processes have held {self.named(LOCK_TOKENS)} for {_PATIENCE_SECONDS:g} s"
                    )
                # The smallest token stays and all others withdraw, so that one of those waiting gets the lock.
                if min(others) < mine:
                    self.remove(token)
                time.sleep(random.uniform(0.05, 0.25))
                self.write(token, b"")  # renewed, as a token that grows old counts as dead
            with self._kept_fresh(token):
                yield
        finally:
            self.remove(token)

    @contextmanager
    def _kept_fresh(self, token: str) -> Iterator[None]:
        """Renew the token in the background for as long as the lock is held."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(_STALE_SECONDS / 5):  # several times per period, as some renewals may fail
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
        """Tokens of other living processes; those of dead ones are removed."""
        infos = {info.base_name: info for info in self._infos(LOCK_TOKENS)}
        if mine not in infos:  # this process paused for so long that another one took it for dead
            self.write(f"{LOCK_TOKENS}/{mine}", b"")
            return [*infos, mine]
        now = infos.pop(mine).mtime  # time on the store's clock, as this machine's may be wrong
        stale = [name for name, info in infos.items() if (now - info.mtime).total_seconds() > _STALE_SECONDS]
        for name in stale:
            self.remove(f"{LOCK_TOKENS}/{name}")
        return [name for name in infos if name not in stale]

    def remove_leftovers(self) -> None:
        """Do nothing: an unfinished object never appears."""

    def _infos(self, directory: str) -> list[Any]:
        place = f"{self.root}/{directory}".rstrip("/")
        with self._said(f"list {self.named(directory)}"):
            infos = self.store.get_file_info(fs.FileSelector(place, allow_not_found=True))
        return [info for info in infos if info.base_name]

    def named(self, file: str) -> str:
        return f"{self.address.partition('?')[0].rstrip('/')}/{file}"

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Turn errors of the store into a RecordsError with one sentence."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise RecordsError(
                f"could not {what}: {error}. Check that the store is reachable and the credentials are "
                "valid, and run the same command again"
            ) from error
