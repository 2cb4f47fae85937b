"""The IDX format of MNIST: a header of sizes, then the numbers; optionally inside gzip.

::

    offset  size  what
    0       2     two zero bytes
    2       1     element type: 0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32, 0x0D float32, 0x0E float64
    3       1     number of dimensions d
    4       4 d   the sizes, unsigned 32-bit, big-endian
    4+4d    ...   the elements, big-endian, last index fastest (C order)

The reader trusts no size: it compares the header with the length of the file before it allocates anything, and
never inflates more than the declared bytes and one, the one that proves that there are too many.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from ..engine.atomic import unwritable, whole_file
from ..engine.checks import ConfigurationError, DataError

MAXIMUM_BYTES = 2**30
"""The most data bytes that `read_idx` accepts, 1 GiB; the largest known IDX file, EMNIST's, has 547 MB."""

TYPE_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}

GZIP_MAGIC = b"\x1f\x8b"
# deflate codes at most 258 bytes in 2 bits, a factor of 1032; a byte of slack for each of header and trailer
LARGEST_EXPANSION = 1032
GZIP = 16 + zlib.MAX_WBITS  # what zlib is told of the container
PACKED, PIECE = 2**16, 2**22  # bytes that are read at a time: at least of a compressed file, and at most
REMEDY = "replace the file; `handgrad data fetch` and `handgrad data import` write files that they have checked"
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def read_idx(
    path: str | os.PathLike,
    *,
    dimensions: int,
    dtype: DTypeLike = np.uint8,
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Read one IDX file, gzip-compressed or plain; which of the two is seen from its first bytes.

    Parameters
    ----------
    path : str or path-like
        The file.
    dimensions : int
        Number of dimensions that the file must have: 3 for MNIST's images, 1 for its labels.
    dtype : dtype
        Element type that the file must have, one of the six types of the format.
    shape : tuple of int, optional
        Sizes that the file must have; any sizes when left out.

    Returns
    -------
    ndarray
        The elements in native byte order, C-contiguous, with `dimensions` dimensions.

    Raises
    ------
    DataError
        When the file is missing, cannot be read, is not IDX, is damaged, too short or too long, has another type,
        number of dimensions or shape, or declares more than `MAXIMUM_BYTES`.
    ConfigurationError
        When the format has no such `dtype`.
    """
    path, dtype = Path(path), np.dtype(dtype)
    code = _type_code(dtype)
    try:
        with open_content(path) as (stream, limit):
            declared = _read_header(path, stream, code, dimensions)
            if shape is not None and declared != tuple(shape):
                raise DataError(f"{path}", got=f"shape {declared}", expected=f"{tuple(shape)}", remedy=REMEDY)
            wanted = _bounded_size(path, declared, dtype, limit)
            values = np.empty(wanted, np.uint8)
            _fill(path, stream, values)
    except DAMAGED as error:
        got = str(error).replace("incorrect data check", "the CRC-32 is wrong")
        raise DataError(f"{path} is damaged", got=got, expected="a whole gzip stream", remedy=REMEDY) from None
    except OSError as error:
        raise unreadable(path, error) from None
    return values.view(dtype.newbyteorder(">")).astype(dtype, copy=False).reshape(declared)


def write_idx(path: str | os.PathLike, values: np.ndarray) -> None:
    """Write an array as an IDX file, gzip-compressed when the name ends in ``.gz``; the file appears whole.

    Parameters
    ----------
    path : str or path-like
        The file to make or to replace.
    values : ndarray
        1 to 255 dimensions, one of the six element types of the format.

    Raises
    ------
    DataError
        When the file cannot be written.
    ConfigurationError
        When the format has no such element type or number of dimensions.
    """
    path, values = Path(path), np.asarray(values)
    code = _type_code(values.dtype)
    if not 1 <= values.ndim <= 255 or max(values.shape) >= 2**32:
        raise ConfigurationError(f"IDX file {path}", got=f"shape {values.shape}", expected="1 to 255 dimensions")
    content = idx_header(values.shape, code) + values.astype(values.dtype.newbyteorder(">")).tobytes()
    try:
        with whole_file(path) as stream:
            stream.write(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    except OSError as error:
        raise unwritable(path, error) from None


def idx_header(shape: tuple[int, ...], code: int = 0x08) -> bytes:
    """Return the header of an IDX file.

    Parameters
    ----------
    shape : tuple of int
        The sizes.
    code : int
        Element type, 0x08 for uint8.

    Returns
    -------
    bytes
        4 + 4 len(shape) bytes.

    Examples
    --------
    >>> idx_header((60000,)).hex(" ", 4)
    '00000801 0000ea60'
    """
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


def content_sha256(path: Path, most: int) -> str | None:
    """Return the SHA-256 of what a file holds, inflated when it is gzip-compressed.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    most : int
        The longest content of interest in bytes; nothing beyond it is inflated.

    Returns
    -------
    str or None
        64 hexadecimal digits; None for a damaged stream and for content longer than `most`.

    Raises
    ------
    DataError
        When the file cannot be read.
    """
    digest, left = hashlib.sha256(), most
    try:
        with open_content(path) as (stream, _):
            while piece := stream.read(min(PIECE, left + 1)):
                left -= len(piece)
                if left < 0:
                    return None
                digest.update(piece)
    except DAMAGED:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    return digest.hexdigest()


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the one-line error for a file that could not be read.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    error : OSError
        What the operating system said.

    Returns
    -------
    DataError
        To be raised by the caller.
    """
    remedy = REMEDY if isinstance(error, FileNotFoundError) else "check the file's permissions and its disk"
    return DataError(f"{path} cannot be read", got=error.strerror or str(error), remedy=remedy)


@contextlib.contextmanager
def open_content(path: Path) -> Iterator[tuple[BinaryIO | _Inflated, int]]:
    """Open a plain or gzip-compressed file for reading.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Yields
    ------
    stream : object
        The content; ``read(most)`` returns its next bytes.
    limit : int
        The content has at most so many bytes: the file's length, or what gzip could make of it.

    Raises
    ------
    DataError
        When `path` is a folder, a pipe or another thing that is not a plain file.
    OSError
        When it cannot be opened.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise DataError(f"{path}", got=kind, expected="a file", remedy=REMEDY)
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        first = file.read(2)
        file.seek(0)
        if first == GZIP_MAGIC:
            yield _Inflated(file), length * LARGEST_EXPANSION
        else:
            yield file, length


class _Inflated:
    """What a gzip-compressed file holds, inflated in large pieces.

    The standard library's reader hands zlib 8 kB at a time; between them another thread that is busy with Python
    keeps it waiting, a hundred times longer than they take. It still reads what follows the first stream of a file,
    which in practice is nothing.

    Parameters
    ----------
    file : BinaryIO
        At its beginning.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._inflater = file, zlib.decompressobj(GZIP)
        self._others: gzip.GzipFile | None = None

    def read(self, most: int) -> bytes:
        """Return the next bytes, so many or, at the end, fewer.

        Raises
        ------
        EOFError, zlib.error, gzip.BadGzipFile
            When a stream ends early or is damaged; at its end, length and CRC have been compared.
        """
        pieces, inflater = [], self._inflater
        while most and not inflater.eof:
            packed = inflater.unconsumed_tail or self._file.read(min(max(PACKED, most), PIECE))
            piece = inflater.decompress(packed, most)
            if not (packed or piece or inflater.eof):
                raise EOFError("the compressed data end early")
            pieces.append(piece)
            most -= len(piece)
        if most:
            self._others = self._others or self._streams_behind()
            pieces.append(self._others.read(most))
        return b"".join(pieces)

    def _streams_behind(self) -> gzip.GzipFile:
        """Return what follows the first stream, behind any zeros."""
        left = self._inflater.unused_data.lstrip(b"\0")
        while not left and (packed := self._file.read(PACKED)):
            left = packed.lstrip(b"\0")
        self._file.seek(-len(left), os.SEEK_CUR)
        return gzip.GzipFile(fileobj=self._file)


def _type_code(dtype: np.dtype) -> int:
    if dtype.name not in TYPE_CODES:
        raise ConfigurationError("IDX file", got=f"element type {dtype}", expected=", ".join(TYPE_CODES))
    return TYPE_CODES[dtype.name]


def _read_header(path: Path, stream: BinaryIO | _Inflated, code: int, dimensions: int) -> tuple[int, ...]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise DataError(
            f"{path} is neither an IDX file nor a gzip-compressed one",
            got=f"the first bytes {start.hex(' ')}" if start else "an empty file",
            expected=f"00 00 {code:02x} {dimensions:02x}",
            remedy=REMEDY,
        )
    if start[2] != code:
        raise DataError(f"{path}", got=f"element type {start[2]:#04x}", expected=f"{code:#04x}", remedy=REMEDY)
    if start[3] != dimensions:
        kinds = {1: "1, as in a file of labels", 3: "3, as in a file of images"}
        raise DataError(
            f"{path}: number of dimensions",
            got=kinds.get(start[3], str(start[3])),
            expected=kinds.get(dimensions, str(dimensions)),
            remedy=REMEDY,
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(
            f"{path}: the header ends early",
            got=f"{4 + len(sizes)} bytes",
            expected=f"{4 + 4 * dimensions}",
            remedy=REMEDY,
        )
    return struct.unpack(f">{dimensions}I", sizes)


def _bounded_size(path: Path, shape: tuple[int, ...], dtype: np.dtype, limit: int) -> int:
    wanted = math.prod(shape) * dtype.itemsize  # Python integers: no overflow
    if wanted == 0:
        raise DataError(f"{path}", got=f"shape {shape}", expected="sizes of at least 1", remedy=REMEDY)
    if wanted > MAXIMUM_BYTES:
        raise DataError(
            f"{path}", got=f"shape {shape}, {wanted} bytes", expected=f"at most {MAXIMUM_BYTES}", remedy=REMEDY
        )
    if 4 + 4 * len(shape) + wanted > limit:
        raise DataError(
            f"{path} is too short for its shape {shape}",
            got=f"room for at most {limit} bytes",
            expected=f"{4 + 4 * len(shape) + wanted}",
            remedy=REMEDY,
        )
    return wanted


def _fill(path: Path, stream: BinaryIO | _Inflated, values: np.ndarray) -> None:
    view, filled = memoryview(values), 0
    while filled < len(view):
        piece = stream.read(min(PIECE, len(view) - filled))
        if not piece:
            raise DataError(
                f"{path}: the data end early", got=f"{filled} bytes", expected=f"{len(view)}", remedy=REMEDY
            )
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    if stream.read(1):  # at the end of a gzip stream this also checks length and CRC
        raise DataError(f"{path}", got="bytes after the data", expected=f"{len(view)} bytes of data", remedy=REMEDY)
