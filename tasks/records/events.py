"""A run's actual values from its TensorBoard events.

Reads the records itself: TensorBoard's loaders end silently at a damaged record, and importing them takes
    five times as long. Format: https://github.com/tensorflow/tensorboard, ``record_writer.py`` (length,
    masked CRC-32C of the length, an Event protobuf, its masked CRC-32C).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from tasks.cases.metrics import METRICS
from tasks.records.card import Card, Metric, metric_from
from tasks.util.exits import TrainingFailed, UsageError

_CRC_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_MASK_DELTA = 0xA282EAD8
ATTEMPT_SUFFIX = ".attempt{}"  # ends the name of an attempt's event file
_ATTEMPT = re.compile(r"\.attempt(\d+)$")
SAMPLES_SUFFIX = " vs samples"  # Megatron-LM writes these again with consumed samples in the place of steps


def read_events(tensorboard_dir: Path) -> tuple[Card, dict[int, Card]]:
    """Scalars of a folder's event files, at full precision (float32 as written): the phase's card, and a card
    of each attempt, also with values that a later one superseded. An attempt that logged nothing is skipped.
    The name of a file ends with its attempt; one without is of attempt 0.

    A step that was logged again, after a crash and a restart, has the value that was written last: files are
        taken in the order of the attempts that they name, then of their first record's time (a clock may be
        set back), records in the order of the file. A session that announces its first step (SummaryWriter's
        ``purge_step``) supersedes all that was logged from that step on. A record cut off at the
        end of a file is what a killed writer leaves and ends that file.

    Raises:
        TrainingFailed: no event file, or none with a scalar; a metric of which one attempt logged a step
            twice.
        UsageError: a damaged record before the end of a file.
    """
    runs = _runs(_event_files(tensorboard_dir))
    card = _card_of(runs)
    if not card.metrics:
        raise TrainingFailed(f"{tensorboard_dir}: event files without a scalar: the training logged no step")
    by_attempt = itertools.groupby(runs, key=lambda run: _attempt(run[0]))
    cards = {attempt: _card_of(list(own)) for attempt, own in by_attempt}
    return card, {attempt: own for attempt, own in cards.items() if own.metrics}


def read_log_times(tensorboard_dir: Path, tag: str) -> dict[int, float]:
    """When each step's value of a scalar was logged: seconds since 1970, by its writer's clock. Of a step
    that was logged again, the last time.

    Raises: what ``read_events`` does.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    times: dict[int, float] = {}
    for path in _event_files(tensorboard_dir):
        for event in map(Event.FromString, _records(path)):
            if any(value.tag == tag for value in event.summary.value):
                times[event.step] = max(event.wall_time, times.get(event.step, event.wall_time))
    if not times:
        raise TrainingFailed(f"{tensorboard_dir}: event files without {tag}: the training logged no step")
    return times


def _attempt(path: Path) -> int:
    number = _ATTEMPT.search(path.name)
    return int(number[1]) if number else 0


def _event_files(tensorboard_dir: Path) -> list[Path]:
    files = sorted(path for path in tensorboard_dir.glob("*tfevents*") if path.is_file())
    if not files:
        raise TrainingFailed(f"{tensorboard_dir}: no TensorBoard events: the training logged nothing")
    return files


def _runs(files: list[Path]) -> list[tuple[Path, list]]:
    """Files that hold events, in the order of their attempts and begins."""
    from tensorboard.compat.proto.event_pb2 import Event

    read = ((path, [Event.FromString(record) for record in _records(path)]) for path in files)
    runs = [(path, events) for path, events in read if events]
    return sorted(runs, key=lambda run: (_attempt(run[0]), run[1][0].wall_time, run[0].name))


def _card_of(runs: list[tuple[Path, list]]) -> Card:
    from tensorboard.compat.proto.event_pb2 import SessionLog

    scalars = _Scalars()
    for path, events in runs:
        for event in events:
            if event.session_log.status == SessionLog.START:
                scalars.forget_from(event.step)
            for value in event.summary.value:
                number = _number(value)
                if number is not None and not value.tag.endswith(SAMPLES_SUFFIX):
                    scalars.take(path, value.tag, event.step, number)
    return Card(metrics={tag: _metric(steps) for tag, steps in scalars.values.items() if steps})


class _Scalars:
    """Logged values while they are read: the last one of each tag and step."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}
        self._logged: set[tuple[str, str, int]] = set()

    def forget_from(self, first: int) -> None:
        """A session begins with step ``first``: what was logged from there on is superseded."""
        self.values = {
            tag: {step: value for step, value in steps.items() if step < first}
            for tag, steps in self.values.items()
        }
        self._logged = {place for place in self._logged if place[-1] < first}

    def take(self, path: Path, tag: str, step: int, value: float) -> None:
        """Note a value.

        Raises:
            TrainingFailed: the same attempt logged this metric at this step before.
        """
        attempt = _ATTEMPT.search(path.name)
        # Other programs name no attempt: each file may be one. Not all that they log is a metric.
        place = (attempt[0] if attempt else path.name, tag, step)
        if place in self._logged and tag in METRICS:
            raise TrainingFailed(
                f"{path}: {tag!r}: step {step} was logged twice in one attempt: it was trained twice, or"
                " another one was logged as it; see what logs it, and train again"
            )
        self._logged.add(place)
        self.values.setdefault(tag, {})[step] = value


def _metric(values: dict[int, float]) -> Metric:
    steps = sorted(values)
    return metric_from(steps, [values[step] for step in steps])


def _number(value) -> float | None:
    if value.HasField("simple_value"):
        return value.simple_value
    if value.HasField("tensor") and not value.tensor.tensor_shape.dim:
        tensor = value.tensor
        if tensor.float_val:
            return tensor.float_val[0]
        if len(tensor.tensor_content) == 4:
            return struct.unpack("<f", tensor.tensor_content)[0]
    return None


def _records(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    offset = 0
    while offset + 12 <= len(content):
        header = content[offset : offset + 8]
        (length,) = struct.unpack("<Q", header)
        (header_crc,) = struct.unpack_from("<I", content, offset + 8)
        if header_crc != _masked_crc(header):
            raise UsageError(f"{path}: byte {offset}: damaged record (checksum of its length)")
        end = offset + 12 + length
        if end + 4 > len(content):
            return
        record = content[offset + 12 : end]
        (record_crc,) = struct.unpack_from("<I", content, end)
        if record_crc != _masked_crc(record):
            raise UsageError(f"{path}: byte {offset}: damaged record (checksum of its content)")
        yield record
        offset = end + 4


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_CRC_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
