"""Any two cards compared, without a run."""

from __future__ import annotations

import pytest

from tasks.judge.run import MEGATRON, Options, judge_pair
from tasks.records.card_store import write_card
from tasks.util.exits import UsageError
from tests.fake_run import card, write_json
from tests.rows import row_of


def pair(tmp_path, golden, actual, **options):
    write_card(tmp_path / "a.json", golden)
    write_card(tmp_path / "b.json", actual)
    return judge_pair(tmp_path / "a.json", tmp_path / "b.json", options=Options(**options))


def test_two_equal_cards_pass(tmp_path):
    assert pair(tmp_path, card(), card()).passed


def test_two_cards_without_a_common_metric(tmp_path):
    with pytest.raises(UsageError, match="no common metric"):
        pair(tmp_path, card(metrics=["lm loss"]), card(metrics=["num-zeros"]))


def test_two_cards_without_a_common_step(tmp_path):
    with pytest.raises(UsageError, match="no common step"):
        pair(tmp_path, card(1, 10), card(11, 20))


def test_two_cards_of_unequal_length_are_bad_input_naming_metric_and_step(tmp_path):
    verdict = pair(tmp_path, card(1, 20), card(1, 15))
    assert verdict.exit_code == 2
    assert "b.json: 'lm loss': step 16 and 4 more missing" in verdict.error
    assert pair(tmp_path, card(1, 20), card(1, 15), steps=(1, 15)).passed


def test_sparse_card_is_compared_at_its_own_steps(tmp_path):
    sparse = card(change=lambda name, step, number: number if step == 1 or step % 5 == 0 else None)
    verdict = pair(tmp_path, sparse, card())
    assert row_of(verdict, "golden", "lm loss").steps == "1-100 (21 steps)"
    assert verdict.passed


def test_header_that_its_values_do_not_keep_is_refused_by_strict_only(tmp_path):
    values = {str(step): 1.0 for step in range(1, 6)}
    content = {"lm loss": {"start_step": 1, "end_step": 9, "step_interval": 1, "values": values}}
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, content)
    with pytest.raises(UsageError, match="says steps 1 to 9, but has values for 1 to 5"):
        judge_pair(tmp_path / "a.json", tmp_path / "b.json")
    assert judge_pair(tmp_path / "a.json", tmp_path / "b.json", options=Options(policy=MEGATRON)).passed


def test_hole_in_a_card_is_named(tmp_path):
    holed = card(change=lambda name, step, number: None if step == 37 else number)
    with pytest.raises(UsageError, match="no value for step 37"):
        pair(tmp_path, holed, holed)


def test_steps_that_no_card_has_never_pass(tmp_path):
    verdict = pair(tmp_path, card(), card(), steps=(200, 300))
    assert verdict.exit_code == 1
