"""Samples that a replica reads, their order, and the tensors that a chunk of the pipeline gets."""

from __future__ import annotations

from tests.program import answer_of


def test_a_replica_reads_its_part_of_every_run_of_samples_until_there_is_no_whole_one() -> None:
    """The second of three replicas reads two of every six samples; the last samples are read, too."""
    found = answer_of("batches.read_in_order")
    assert [batch["tokens"] for batch in found["read"]] == [[[20] * 4, [30] * 4], [[80] * 4, [90] * 4]]
    assert found["of ten"] == 2


def test_only_what_the_chunk_takes_is_read_and_lies_where_a_device_copies_by_itself() -> None:
    found = answer_of("batches.read_in_order")
    assert [set(batch) for batch in found["read"]] == [{"tokens", "position_ids"}] * 2
    assert sorted(found["pinned"]) == [20, 21, 80, 81]


def test_it_goes_on_where_samples_were_consumed_and_a_digest_consumes_none() -> None:
    found = answer_of("batches.read_from_the_middle")
    assert found["then"] == [[82] * 4, [92] * 4]
    assert found["digests"][0] == found["digests"][1]


def test_what_was_read_ahead_is_taken_in_order_and_not_read_again() -> None:
    assert answer_of("batches.read_ahead_twice") == [20, 80]
    first, second = [20, 21], [80, 81]  # the first tokens of the two tensors that are kept for the device
    assert answer_of("batches.read_ahead") == [
        {"read so far": first, "taken": [[20] * 4, [30] * 4]},
        {"read so far": first + second, "taken": [[80] * 4, [90] * 4]},
        {"read so far": first + second, "taken": None},
    ]


def test_there_is_no_digest_of_a_batch_that_does_not_come() -> None:
    assert answer_of("batches.digest_at_the_end") == "StopIteration"


def test_the_batch_that_comes_next_is_the_same_whether_it_was_read_ahead_or_not() -> None:
    plain, ahead = answer_of("batches.digests_with_and_without_reading_ahead")
    assert plain == ahead


def test_only_the_first_and_the_last_chunk_of_the_pipeline_read() -> None:
    found = answer_of("batches.read_by_stages")
    assert found["reads"] == [True, False, True]
    assert found["chunks"] == {
        "first": [["tokens", "position_ids"], None, None],
        "middle": [None, None, None],
        "last": [None, None, ["labels", "loss_mask"]],
    }


def test_the_training_set_is_that_of_the_cases_seed_and_long_enough_for_all_steps() -> None:
    assert answer_of("batches.built_training_set") == {
        "sizes": [40, 0, 0],
        "here": False,
        "splits": [[0, 0.9], None, None],
        "seed": 77,
        "length": 32,
        "blend": [["text"], None],
        "cache": "cache",
        "set": "training",
    }
