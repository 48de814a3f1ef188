"""Ranks that wait for others, from the records of all."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.launch.collectives import read_records, record_file, waiting

GROUPS = {"0": [0, 1, 2, 3], "1": [0, 2]}


def entry(number: int, *, group: str = "0", ended: bool = True, message: bool = False) -> dict:
    return {
        "collective_seq_id": number,
        "is_p2p": message,
        "process_group": [group, {"0": "default_pg", "1": "undefined"}[group]],
        "profiling_name": "nccl:recv 0<-2" if message else "gloo:all_reduce",
        "retired": ended,
    }


def record(*entries: dict) -> dict:
    return {"entries": list(entries), "groups": GROUPS}


def test_a_collective_that_others_never_entered_names_them() -> None:
    found = waiting(
        {
            0: record(entry(1), entry(2, ended=False)),
            1: record(entry(1)),
            2: record(entry(1), entry(2, ended=False), entry(1, group="1")),
        }
    )
    assert set(found) == {0, 2}
    assert (found[0].absent, found[0].unknown) == ((1,), (3,))
    assert str(found[0]) == (
        "waits in gloo:all_reduce 2 of group default_pg (ranks 0, 1, 2, 3), which rank 1 never entered;"
        " rank 3 did not say"
    )


def test_groups_count_by_themselves() -> None:
    (one,) = waiting(
        {0: record(entry(1), entry(7, group="1", ended=False)), 2: record(entry(9), entry(6, group="1"))}
    ).values()
    assert (one.group, one.ranks, one.absent) == ("1", (0, 2), (2,))
    both = record(entry(7, group="1", ended=False))
    assert [one.absent for one in waiting({0: both, 2: both}).values()] == [(), ()]


def test_of_several_the_oldest_is_named_and_a_message_has_no_absent_ranks() -> None:
    late, early = entry(4, ended=False), entry(3, ended=False, message=True)
    (one,) = waiting({0: record(entry(2), early, late)}).values()
    assert str(one) == "waits in nccl:recv 0<-2 3 of group default_pg (ranks 0, 1, 2, 3)"


def test_a_rank_that_waits_for_nobody_and_one_without_a_record(tmp_path: Path) -> None:
    record_file(tmp_path, 1).write_text(json.dumps(record(entry(1))))
    records = read_records(tmp_path, {0: 10, 1: 11})
    assert list(records) == [1]
    assert waiting(records) == {}
