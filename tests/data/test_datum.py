"""Caffe's Datum, against protobuf's own library and DALI's own reader."""

import numpy as np
import pytest

from data import datum
from data.datum import Datum

EXAMPLES = [Datum(375, 500, 999, bytes(range(256)) * 500), Datum(1, 1, 0, b""), Datum(65500, 127, 128, b"\xff\xd8")]


@pytest.fixture(scope="module")
def caffe_datum() -> type:
    """The message class of caffe.proto, made by protobuf's library."""
    protobuf = pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    assert protobuf
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {
        "channels": (1, field.TYPE_INT32),
        "height": (2, field.TYPE_INT32),
        "width": (3, field.TYPE_INT32),
        "data": (4, field.TYPE_BYTES),
        "label": (5, field.TYPE_INT32),
        "encoded": (7, field.TYPE_BOOL),
    }
    file = descriptor_pb2.FileDescriptorProto(name="datum.proto", package="caffe", syntax="proto2")
    message = file.message_type.add(name="Datum")
    for name, (number, kind) in kinds.items():
        message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.Datum"))


@pytest.mark.parametrize("example", EXAMPLES, ids=["photograph", "empty", "sizes"])
def test_encoding_is_protobufs_byte_for_byte(example: Datum, caffe_datum: type):
    height, width, label, data = example
    theirs = caffe_datum(channels=3, height=height, width=width, label=label, data=data, encoded=True)
    assert datum.encode(example) == theirs.SerializeToString()


@pytest.mark.parametrize("example", EXAMPLES, ids=["photograph", "empty", "sizes"])
def test_decoding_gives_what_was_encoded(example: Datum):
    assert datum.decode(datum.encode(example)) == example
    assert datum.decode(memoryview(datum.encode(example))) == example


def test_damaged_records_are_refused_or_read_otherwise_but_never_crash():
    whole = datum.encode(Datum(375, 500, 3, b"pixels" * 10))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        record = bytearray(whole[: rng.integers(len(whole) + 1)])
        for place in rng.integers(max(1, len(record)), size=2):
            if record:
                record[place] = rng.integers(256)
        try:
            datum.decode(bytes(record))
        except ValueError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("cut", [0, 1, 5, 40, -1])
def test_truncated_records_are_refused(cut: int):
    with pytest.raises(ValueError, match=r"byte|fields"):
        datum.decode(datum.encode(Datum(375, 500, 3, b"pixels" * 10))[:cut])
