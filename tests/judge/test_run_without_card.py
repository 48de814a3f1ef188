"""A run that has no card, or one that has lost its provenance, is compared with what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.judge.run import MEGATRON, Options, Verdict, judge_run
from tasks.records.card_store import card_path, write_card
from tasks.util.files import read_json_object
from tests.fake_run import CASE, card, write_golden, write_json, write_run


def changed(run: Path, **changes: object) -> Path:
    write_json(run / "case.json", read_json_object(run / "case.json") | changes)
    return run


@pytest.mark.parametrize("goldens", ["", "beside the case file"])
def test_of_megatron_lm_the_restart_alone_decides(tmp_path: Path, goldens: str) -> None:
    (tmp_path / "beside the case file").mkdir()
    folder = str(tmp_path / goldens) if goldens else ""
    run = changed(write_run(tmp_path / "run"), subject="megatron-core-0.19.2", goldens=folder)
    verdict = judge_run(run, root=tmp_path)
    assert (verdict.exit_code, verdict.error) == (0, None)
    assert {row.comparison for row in verdict.rows} == {"resume", "restart"}
    run = changed(write_run(tmp_path / "plain", test_type="regular"), subject="megatron-core-0.19.2")
    assert judge_run(run, root=tmp_path).exit_code == 2, "nothing would be compared"


def test_our_own_program_needs_a_card(tmp_path: Path) -> None:
    assert judge_run(write_run(tmp_path / "run"), root=tmp_path).exit_code == 2


def without_provenance(tmp_path: Path, *, full_precision: bool = True, generic: bool = False) -> Path:
    values = card(full_precision=full_precision)
    path = card_path(tmp_path, CASE, "lts", "cpu_x86_64")
    if generic:
        path = path.with_name("golden_values_lts.json")
    write_card(path, values)
    return path


def missing(verdict: Verdict) -> list[str]:
    return [row.metric for row in verdict.rows if not row.passed]


def test_a_card_of_ours_without_provenance_fails(tmp_path: Path) -> None:
    without_provenance(tmp_path)
    assert missing(judge_run(write_run(tmp_path / "run"), root=tmp_path)) == ["provenance"]


def test_others_need_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = without_provenance(tmp_path)
    assert missing(judge_run(run, root=tmp_path, golden_file=path)) == [], "a file that was named"
    assert missing(judge_run(run, root=tmp_path, options=Options(policy=MEGATRON))) == []
    path.unlink()
    without_provenance(tmp_path, generic=True)
    assert missing(judge_run(run, root=tmp_path)) == []
    without_provenance(tmp_path, full_precision=False)
    assert missing(judge_run(run, root=tmp_path)) == [], "Megatron-LM's own"
    write_golden(tmp_path)
    assert missing(judge_run(run, root=tmp_path)) == []
