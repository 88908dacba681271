"""Whether an object that came whole is what its server says it is.

A server may state a checksum that somebody computed when the object was written
(``x-amz-checksum-*``), or an ETag that is the MD5 of its bytes. Ranges have nothing of the kind.
"""

import hashlib
import logging
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nsd_pipeline.errors import SourceError

_log = logging.getLogger(__name__)

_MD5_ETAG: Final = re.compile(r'"([0-9a-f]{32})"')
_MD5: Final = "MD5"
_ALGORITHMS: Final = ("SHA256", "SHA1", "CRC32C", "CRC32", _MD5)
"""Those that whoever writes can choose, the strongest first. CRC64NVME needs a library of AWS's."""


@dataclass(frozen=True)
class Checksum:
    """What the digest of a whole object must be, by which algorithm: as S3 calls it, or ``MD5``."""

    algorithm: str
    digest: bytes

    def of(self, parts: Iterable[bytes]) -> bytes:
        """Digest of what arrived."""
        if self.algorithm.startswith("CRC32"):
            extend, value = _crc(self.algorithm), 0
            for part in parts:
                value = extend(part, value)
            return value.to_bytes(4, "big")
        found = hashlib.new(self.algorithm, usedforsecurity=False)
        for part in parts:
            found.update(part)
        return found.digest()


def _crc(algorithm: str) -> Callable[[bytes, int], int]:
    """Take the CRC of what comes next, given that of what came before."""
    if algorithm == "CRC32":
        from isal.isal_zlib import crc32

        return crc32
    import google_crc32c  # zarr depends on it

    return lambda data, value: google_crc32c.extend(value, data)


def stated_checksum(head: Mapping[str, Any]) -> Checksum | None:
    """Checksum of all bytes of an object, by boto3's answer to HEAD; None if it has none.

    To be asked with ``ChecksumMode="ENABLED"``.
    """
    for algorithm in _ALGORITHMS:
        value = head.get(f"Checksum{algorithm}", "")
        # Of an object that came in parts, it may be a checksum of the parts' checksums: "...-17".
        if value and "-" not in value and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            try:
                return Checksum(algorithm, b64decode(value, validate=True))
            except Base64Error:
                continue
    etag = _MD5_ETAG.fullmatch(head.get("ETag", ""))
    # Encrypted with a key of their own, objects have ETags that look alike and are no MD5.
    if "SSECustomerAlgorithm" in head or head.get("ServerSideEncryption", "AES256") != "AES256":
        return None
    return Checksum(_MD5, bytes.fromhex(etag[1])) if etag else None


class Verdict:
    """Judges one object's bytes once they have arrived, and a second time if they have to.

    By the checksum that the server states, if any. Messages call the object by its name.
    """

    def __init__(self, name: str, checksum: Checksum | None) -> None:
        self._name, self._checksum = name, checksum
        self._first: bytes | None = None

    def accepts(self, parts: Callable[[], Iterable[bytes]]) -> bool:
        """Whether the bytes are right. If they are not, they are to be fetched once more.

        A SourceError if the second ones are wrong as well.
        """
        if self._checksum is None:
            return True
        found = self._checksum.of(parts())
        if found == self._checksum.digest:
            return True
        if self._first is None:
            _log.warning("%s arrived damaged; it is fetched again.", self._name)
            self._first = found
            return False
        if self._checksum.algorithm == _MD5 and found == self._first:
            # No network spoils an object twice in one way: this server's ETags are something else.
            _log.warning("The ETag of %s looks like its MD5 and is not.", self._name)
            return True
        raise SourceError(
            f"{self._name} arrived damaged twice: its {self._checksum.algorithm} is"
            f" {found.hex()}, but the server states {self._checksum.digest.hex()}.",
            next_step="run this step again; if it stays so, the object itself or something between"
            " here and the server is damaged.",
        )
