"""Event files as TensorBoard's writer makes them, whole or damaged."""

from __future__ import annotations

import struct

from tasks.records.events import _masked_crc


def event(tag=None, step=0, value=0.0, *, time=1.0, start=False, tensor=False) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary

    message = Event(wall_time=time, step=step)
    if start:
        message.session_log.status = SessionLog.START
    if tag:
        entry = Summary.Value(tag=tag)
        if tensor:
            entry.tensor.dtype = 1
            entry.tensor.float_val.append(value)
        else:
            entry.simple_value = value
        message.summary.value.append(entry)
    return message.SerializeToString()


def framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", _masked_crc(length)) + record + struct.pack("<I", _masked_crc(record))


def write_events(directory, name, *records):
    directory.mkdir(exist_ok=True)
    path = directory / f"events.out.tfevents.{name}"
    path.write_bytes(b"".join(map(framed, records)))
    return path
