"""Golden cards: written whole, found by environment and platform, with the story of where they came from."""

from __future__ import annotations

import dataclasses
import errno
import json
import os

import numpy as np
import pytest

from tasks.records.card import Card, first_hole, header_fault, interval_of, metric_from
from tasks.records.card_store import (
    card_path,
    find_card,
    provenance_path,
    read_card,
    read_provenance,
    write_card,
    write_provenance,
)
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import file_sha256, read_json_object
from tests.fake_run import CASE, card, write_golden


def test_card_has_megatron_lms_keys_and_repr_precision(tmp_path):
    value = float(np.float32(10.815481))
    write_card(tmp_path / "card.json", Card(metrics={"lm loss": metric_from([1, 5, 10], [value, 2.0, 0.1])}))
    assert json.loads((tmp_path / "card.json").read_text()) == {
        "lm loss": {
            "start_step": 1,
            "end_step": 10,
            "step_interval": 5,
            "values": {"1": value, "5": 2.0, "10": 0.1},
            "value_precision": "full",
        }
    }


def test_values_that_are_no_numbers_are_written_as_strings(tmp_path):
    numbers = [float("nan"), float("inf"), float("-inf")]
    write_card(tmp_path / "card.json", Card(metrics={"lm loss": metric_from([1, 2, 3], numbers)}))
    written = json.loads((tmp_path / "card.json").read_text(), parse_constant=pytest.fail)
    assert list(written["lm loss"]["values"].values()) == ["nan", "inf", "-inf"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, CannotRun), (errno.EROFS, CannotRun), (errno.EACCES, UsageError)],
)
def test_a_failed_write_leaves_the_old_card_and_no_litter(tmp_path, monkeypatch, number, kind):
    path = tmp_path / "card.json"
    write_card(path, card())
    before = path.read_bytes()

    def failing(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(kind, match=os.strerror(number)):
        write_card(path, card(1, 10))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["card.json"]


def test_own_card_before_the_generic_one(tmp_path):
    own = write_golden(tmp_path)
    generic = own.with_name("golden_values_lts.json")
    write_card(generic, card())
    assert find_card(tmp_path, CASE, "lts", "cpu_x86_64").path == own
    assert not find_card(tmp_path, CASE, "lts", "cpu_x86_64").generic
    other = find_card(tmp_path, CASE, "lts", "dgx_a100")
    assert (other.path, other.generic) == (generic, True)
    own.unlink()
    own.symlink_to("nowhere")  # the generic one is held to tolerances only
    assert find_card(tmp_path, CASE, "lts", "cpu_x86_64").path == own


def test_no_card_says_how_to_record_one(tmp_path):
    with pytest.raises(UsageError, match=r'record one: nox -s record -- gpt3_pp4_resume --reason "\.\.\."'):
        find_card(tmp_path, CASE, "dev", "cpu_aarch64")


def test_provenance_knows_its_card(tmp_path):
    path = card_path(tmp_path, CASE, "lts", "cpu_x86_64")
    write_card(path, card())
    write_provenance(path, {"reason": "first"})
    assert provenance_path(path).name == "golden_values_lts_cpu_x86_64.provenance.json"
    assert read_provenance(path) == {"reason": "first", "card_sha256": file_sha256(path)}
    assert read_provenance(path.with_name("other.json")) is None


@pytest.mark.parametrize(("content", "what"), [(b"[]", "object"), (b"{", "not JSON"), (b"\xff", "UTF-8")])
def test_malformed_side_file_is_one_line(tmp_path, content, what):
    path = tmp_path / "side.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=what) as caught:
        read_json_object(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_json_object(tmp_path)


@pytest.mark.parametrize(
    ("steps", "interval", "hole"),
    [
        ([1, 2, 3, 4], 1, None),
        ([1, 5, 10, 15, 20], 5, None),
        ([1, 6, 11, 16], 5, None),
        ([10, 20, 30], 10, None),
        ([51, 52, 53], 1, None),
        ([7], 1, None),
        ([1, 2, 4, 5], 1, 3),
        ([1, 5, 10, 20, 25], 5, 15),
        ([1, 3, 4, 5], 1, 2),
    ],
)
def test_cadence_and_holes(steps, interval, hole):
    metric = metric_from(steps, [1.0] * len(steps))
    assert interval_of(metric.steps) == interval
    assert first_hole(metric) == hole
    assert (header_fault(metric) is None) is (hole is None)


@pytest.mark.parametrize("steps", [[1, 51], [1, 100], [10, 20, 30]])
def test_a_card_of_ours_with_steps_cut_out_does_not_keep_its_header(steps):
    cut = dataclasses.replace(metric_from(steps, [1.0] * len(steps)), step_interval=1)
    assert header_fault(cut).startswith("says a value every 1 steps, but has one every ")
    assert header_fault(dataclasses.replace(cut, full_precision=False)) is None  # Megatron-LM's are so


def test_between_and_rounded():
    metric = metric_from(range(1, 11), [1.0000049] * 10)
    part = metric.between(3, 5)
    assert part.steps.tolist() == [3, 4, 5]
    assert (part.start_step, part.end_step) == (3, 5)
    assert metric.between(50, 60).steps.size == 0
    rounded = metric.rounded()
    assert not rounded.full_precision
    assert rounded.values.tolist() == [1.0] * 10
    # NumPy's own rounding gives 0.5
    assert metric_from([1], [0.500005]).rounded().values[0] == 0.50001


def test_metric_from_refuses_what_is_no_series():
    for steps, values in (([], []), ([1, 2], [1.0]), ([2, 1], [1.0, 1.0]), ([1, 1], [1.0, 1.0])):
        with pytest.raises(ValueError, match="steps"):
            metric_from(steps, values)


def test_megatron_lm_can_read_ours(tmp_path):
    """Its model of a metric: three whole numbers and values of whole-number steps; other keys are ignored."""
    write_card(tmp_path / "card.json", card())
    for entry in json.loads((tmp_path / "card.json").read_text()).values():
        assert all(type(entry[key]) is int for key in ("start_step", "end_step", "step_interval"))
        assert all(
            str(int(step)) == step and type(number) in (int, float)
            for step, number in entry["values"].items()
        )
    assert read_card(tmp_path / "card.json").metrics.keys() == card().metrics.keys()
