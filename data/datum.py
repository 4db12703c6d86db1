"""Caffe's `Datum`, the protocol buffer in which an LMDB record holds an image; 40 lines instead of a dependency.

Fields (caffe.proto): 1 channels, 2 height, 3 width, 4 data, 5 label, 7 encoded. A field is a varint key, number x 8 +
kind, and a value: a varint (kind 0), or a length as varint and that many bytes (kind 2).
"""

from typing import NamedTuple

CHANNELS, HEIGHT, WIDTH, DATA, LABEL, ENCODED = 1, 2, 3, 4, 5, 7
VARINT, BYTES = 0, 2


class Datum(NamedTuple):
    """One image: its size in pixels, its class, and its file's bytes."""

    height: int
    width: int
    label: int
    data: bytes


def encode(datum: Datum) -> bytes:
    """The record that holds `datum`, with three channels and encoded = true."""
    head = _head(datum.height, datum.width, len(datum.data))
    return b"".join([head, datum.data, _field(LABEL, datum.label), _field(ENCODED, 1)])


def prefix(height: int, width: int, length: int) -> int:
    """How many bytes of a record that `encode` made come before the image's own `length` bytes."""
    return len(_head(height, width, length))


def decode(record: bytes | memoryview) -> Datum:
    """What `encode` was given. ValueError if the record is no such Datum; fields it does not know are refused too."""
    numbers: dict[int, int] = {}
    data = b""
    place = 0
    while place < len(record):
        key, place = _read_varint(record, place)
        value, place = _read_varint(record, place)
        if key & 7 == VARINT:
            numbers[key >> 3] = value
        elif key == DATA << 3 | BYTES and place + value <= len(record):
            data, place = bytes(record[place : place + value]), place + value
        else:
            raise ValueError(f"field {key >> 3} of kind {key & 7} at byte {place}")
    if numbers.get(ENCODED) != 1 or not numbers.keys() >= {HEIGHT, WIDTH, LABEL}:
        raise ValueError(f"fields {sorted(numbers)} are not those of an encoded image")
    return Datum(numbers[HEIGHT], numbers[WIDTH], numbers[LABEL], data)


def _head(height: int, width: int, length: int) -> bytes:
    fields = _field(CHANNELS, 3) + _field(HEIGHT, height) + _field(WIDTH, width)
    return fields + _varint(DATA << 3 | BYTES) + _varint(length)


def _field(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the top bit of a byte says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(record: bytes | memoryview, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and the place after it. ValueError if the record ends before it does."""
    value = 0
    for shift in range(0, 64, 7):
        if place >= len(record):
            raise ValueError(f"the record ends in a number at byte {place}")
        value |= (record[place] & 0x7F) << shift
        place += 1
        if record[place - 1] < 0x80:
            return value, place
    raise ValueError(f"a number longer than 64 bits at byte {place}")
