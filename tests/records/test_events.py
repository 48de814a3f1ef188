"""Actual values from TensorBoard events: float32 as written, the last written counts, damage is no end of
file.
"""

from __future__ import annotations

import numpy as np
import pytest

from tasks.cases.metrics import METRICS, metric_named
from tasks.records.events import read_events, read_log_times
from tasks.util.exits import TrainingFailed, UsageError
from tests.event_files import event, framed, write_events
from tests.program import answer_of


def values(directory, tag="lm loss"):
    metric = read_events(directory)[0].metrics[tag]
    return dict(zip(metric.steps.tolist(), metric.values.tolist(), strict=True))


def test_files_of_torchs_own_kind_of_writer(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step in range(1, 101):
        summary = Summary(value=[Summary.Value(tag="lm loss", simple_value=10.8154812 / step)])
        writer.add_event(Event(wall_time=step, step=step, summary=summary))
    writer.close()
    assert values(tmp_path) == {step: float(np.float32(10.8154812 / step)) for step in range(1, 101)}
    metric = read_events(tmp_path)[0].metrics["lm loss"]
    assert metric.full_precision
    assert (metric.start_step, metric.end_step, metric.step_interval) == (1, 100, 1)


def test_values_as_tensors(tmp_path):
    write_events(tmp_path, "1", event("lm loss", 1, 0.5, tensor=True))
    assert values(tmp_path) == {1: 0.5}


def test_a_step_logged_again_has_the_value_written_last(tmp_path):
    # by time, not by name: the restart's file sorts first here
    write_events(tmp_path, "b", event(time=1), *(event("lm loss", step, 1.0, time=2) for step in (1, 2, 3)))
    write_events(tmp_path, "a", event(time=5), *(event("lm loss", step, 2.0, time=6) for step in (2, 3, 4)))
    assert values(tmp_path) == {1: 1.0, 2: 2.0, 3: 2.0, 4: 2.0}


def test_a_restart_supersedes_steps_that_it_did_not_reach_again(tmp_path):
    write_events(tmp_path, "1", event(time=1), *(event("lm loss", step, 1.0, time=2) for step in range(1, 8)))
    write_events(
        tmp_path, "2", event(time=5), event(start=True, step=3, time=5), event("lm loss", 3, 2.0, time=6)
    )
    assert values(tmp_path) == {1: 1.0, 2: 1.0, 3: 2.0}


def test_attempts_come_in_their_order_whatever_the_clock_says(tmp_path):
    for attempt, first, time in ((0, 1, 100), (9, 3, 50), (10, 4, 20)):
        steps = [event("lm loss", step, float(attempt), time=time) for step in (first, first + 1, first + 2)]
        begun = event(start=True, step=first, time=time)
        write_events(tmp_path, f"1.attempt{attempt}", event(time=time), begun, *steps)
    assert values(tmp_path) == {1: 0.0, 2: 0.0, 3: 9.0, 4: 10.0, 5: 10.0, 6: 10.0}


def test_scalars_over_samples_are_no_steps(tmp_path):
    write_events(tmp_path, "1", event("lm loss", 1, 1.0), event("lm loss vs samples", 16, 1.0))
    assert list(read_events(tmp_path)[0].metrics) == ["lm loss"]


def test_record_cut_off_by_a_kill_ends_the_file(tmp_path):
    path = write_events(tmp_path, "1", *(event("lm loss", step, 1.0) for step in (1, 2, 3)))
    whole = path.read_bytes()
    for cut in (1, 5, 20):
        path.write_bytes(whole[:-cut])
        assert list(values(tmp_path)) == [1, 2]


@pytest.mark.parametrize("offset", [0, 9, 14])
def test_damaged_record_is_an_error_not_an_end(tmp_path, offset):
    path = write_events(tmp_path, "1", *(event("lm loss", step, 1.0) for step in (1, 2, 3)))
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="byte 0: damaged record"):
        read_events(tmp_path)


def test_nothing_logged_is_training_that_failed(tmp_path):
    with pytest.raises(TrainingFailed, match="logged nothing"):
        read_events(tmp_path)
    write_events(tmp_path, "1", event(time=1))
    with pytest.raises(TrainingFailed, match="no step"):
        read_events(tmp_path)


def test_nan_loss_stays_nan(tmp_path):
    write_events(tmp_path, "1", event("lm loss", 1, float("nan")))
    assert np.isnan(values(tmp_path)[1])


def test_each_attempt_keeps_what_a_later_one_superseded(tmp_path):
    first = [event(start=True, step=1), event("lm loss", 1, 5.0), event("lm loss", 2, 4.0, time=2.0)]
    second = [event(start=True, step=2, time=3.0), event("lm loss", 2, 3.5, time=4.0)]
    write_events(tmp_path, "1.host.7.0.attempt0", *first)
    write_events(tmp_path, "3.host.8.0.attempt1", *second)
    write_events(tmp_path, "4.host.9.0.attempt2", event(start=True, step=2, time=5.0))
    _, found = read_events(tmp_path)
    assert {attempt: card.metrics["lm loss"].values.tolist() for attempt, card in found.items()} == {
        0: [5.0, 4.0],
        1: [3.5],
    }


@pytest.mark.parametrize(
    "names", [("1.host.7.0",), ("1.host.7.0.attempt0",), ("1.a.attempt1", "1.b.attempt1")]
)
def test_a_step_that_one_attempt_logged_twice_is_told(tmp_path, names):
    write_events(tmp_path, names[0], *(event("lm loss", step, 1.0) for step in (1, 2, 3)))
    path = tmp_path / f"events.out.tfevents.{names[-1]}"
    with path.open("ab") as file:
        file.write(framed(event("lm loss", 2, 1.0, time=2.0)))
    with pytest.raises(
        TrainingFailed, match=rf"{names[-1]}: 'lm loss': step 2 was logged twice in one attempt"
    ):
        read_events(tmp_path)


def test_what_is_no_metric_may_come_twice(tmp_path):
    write_events(
        tmp_path, "1", event("lm loss", 1, 1.0), *(event("lm loss validation", 1, v) for v in (2.0, 3.0))
    )
    assert values(tmp_path, "lm loss validation") == {1: 3.0}


def test_a_session_that_begins_again_in_the_same_attempt_supersedes(tmp_path):
    again = [event(start=True, step=2, time=3.0), event("lm loss", 2, 9.0, time=3.0)]
    write_events(tmp_path, "1.attempt0", *(event("lm loss", step, 1.0) for step in (1, 2)), *again)
    assert values(tmp_path) == {1: 1.0, 2: 9.0}


def test_a_file_without_an_attempt_in_its_name_is_of_the_first(tmp_path):
    write_events(tmp_path, "1.host.7.0", event("lm loss", 1, 5.0))
    assert list(read_events(tmp_path)[1]) == [0]


def test_when_a_step_was_logged_the_last_time_counts(tmp_path):
    write_events(
        tmp_path,
        "a",
        event("lm loss", 1, 2.0, time=10.5),
        event("lm loss", 2, 2.0, time=30.0),
        event("grad-norm", 3, 2.0, time=31.0),
    )
    write_events(tmp_path, "b", event("lm loss", 2, 2.0, time=20.25))
    assert read_log_times(tmp_path, "lm loss") == {1: 10.5, 2: 30.0}


def test_a_scalar_that_was_never_logged_has_no_times(tmp_path):
    write_events(tmp_path, "a", event("lm loss", 1, 2.0))
    with pytest.raises(TrainingFailed, match="without num-zeros"):
        read_log_times(tmp_path, "num-zeros")


def test_what_ranks_add_up_is_what_may_die_with_one():
    summed = {*answer_of("modules.names_of_sums"), "params-norm"}
    assert len(summed) == 9
    assert {name for name in METRICS if metric_named(name).summed} == summed
