"""The reader of golden cards: every card of Megatron-LM as it is, one line for anything that is no card."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.records import card_reader
from tasks.records.card import Card, metric_from
from tasks.records.card_store import read_card, write_card
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY

MEGATRON_CARDS = sorted((REPOSITORY / "tests" / "data" / "megatron_cards").glob("golden_values_*.json"))


def metric_text(values: str, header: str = '"start_step": 1, "end_step": 2, "step_interval": 1') -> str:
    return f'{{"lm loss": {{{header}, "values": {{{values}}}}}}}'


@pytest.mark.parametrize("path", MEGATRON_CARDS, ids=lambda path: path.stem)
def test_cards_of_megatron_lm_are_read_as_they_are(path):
    card = read_card(path)
    for name, entry in json.loads(path.read_text()).items():
        metric = card.metrics[name]
        assert metric.steps.tolist() == [int(step) for step in entry["values"]]
        assert metric.values.tolist() == list(entry["values"].values())
        assert (metric.start_step, metric.end_step) == (entry["start_step"], entry["end_step"])
        assert not metric.full_precision


def test_strings_are_kept_beside_the_numbers(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(metric_text('"1": "nan", "2": 3'))
    metric = read_card(path).metrics["lm loss"]
    assert metric.texts == {1: "nan"}
    assert np.isinf(metric.values[0])
    assert metric.values[1] == 3.0
    assert metric.shown(0) == "nan"


def test_full_precision_is_read(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(metric_text('"1": 1.5').replace('"values"', '"value_precision": "full", "values"'))
    assert read_card(path).metrics["lm loss"].full_precision


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1, column 1: empty"),
        ("nonsense", "line 1, column 1: not JSON"),
        (metric_text('"1": 1.0')[:-9], "cut off"),
        ("[1, 2]", "must be a JSON object of metrics, is a list"),
        ("3", "a whole number"),
        ("null", "null"),
        ("{}", "holds no metric"),
        ("[" * 100_000, "not a golden card"),
        ('{"1": 2.0}', "step 1 where a metric's name should be"),
        ('{"lm loss": 3}', "'lm loss': must be an object"),
        (
            metric_text('"1": 1.0').replace('"values"', '"value_precison": "full", "values"'),
            "'lm loss': unknown key 'value_precison'; known: start_step",
        ),
        ('{"lm loss": {}}', "'lm loss'"),
        ('{"a": {}, "a": {}}', "'a' is there twice"),
        ('{"lm loss": {"values": {}, "values": {}}}', "'lm loss': 'values' is there twice"),
        (
            metric_text('"1": 1.0', '"start_step": true, "end_step": 2, "step_interval": 1'),
            "start_step .* is true",
        ),
        (metric_text('"1": 1.0', '"start_step": 1, "step_interval": 1'), "end_step .* is missing"),
        (metric_text('"1": 1.0', '"start_step": 1, "end_step": -2, "step_interval": 1'), "end_step"),
        (metric_text('"1": true'), "'lm loss': step 1: true where a number"),
        (metric_text(f'"1": "{"x" * 41}"'), "'lm loss': step 1: a string of 41 characters where a number"),
        (metric_text('"1": 1.0, "2": null'), "'lm loss': step 2: null"),
        (metric_text('"1": [1.0]'), "'lm loss': step 1: a list"),
        (metric_text('"1": {"2": 1.0}'), "'lm loss': step 1: an object"),
        (metric_text('"1": 1.0, "1": 1.0'), "'lm loss': step 1 is there twice"),
        (metric_text('"1": 1.0, "3": 1.0, "1": 2.0'), "'lm loss': step 1 is there twice"),
        (metric_text('"3": 1.0, "2": 1.0'), "'lm loss': step 2 comes after step 3"),
        (metric_text('"-1": 1.0'), "'lm loss': step '-1'"),
        (metric_text('"1": 1.0, "+2": 1.0'), "step '\\+2'"),
        (metric_text('"01": 1.0'), "step '01'"),
        (metric_text('"1_0": 1.0'), "step '1_0'"),
        (metric_text('"1": 1.0, " 2": 1.0'), "step ' 2'"),
        (metric_text('"٣": 1.0'), "'lm loss': step"),
        (metric_text('"x": 1.0'), "'lm loss': step 'x'"),
        (metric_text('"%s": 1.0' % ("9" * 20)), "'lm loss': step '9999"),
        (metric_text('"1": Infinity'), "'lm loss': step 1: an infinite number"),
        (metric_text('"1": 1.0, "2": -Infinity'), "'lm loss': step 2: an infinite number"),
        (metric_text('"1": "nan", "2": 1e999'), "'lm loss': step 2: an infinite number"),
        (metric_text('"1": 1%s' % ("0" * 400)), "'lm loss': a whole number too large"),
        (metric_text('"1": 1%s' % ("0" * 5000)), "not a golden card"),
        ('{"lm loss": {"start_step": 1, "end_step": 1, "step_interval": 1, "values": [1.0]}}', "is a list"),
        (
            metric_text('"1": 1.0').replace('"values"', '"value_precision": "half", "values"'),
            "value_precision",
        ),
        ('\ufeff{"lm loss": {}}', "BOM"),
    ],
)
def test_bad_card_is_one_line_with_file_and_place(tmp_path, text, place):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=place) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_not_utf_8_names_line_and_byte(tmp_path):
    path = tmp_path / "card.json"
    path.write_bytes(b'{"lm loss":\n \xff}')
    with pytest.raises(UsageError, match=r"line 2: not UTF-8 \(byte 13\)"):
        read_card(path)


def test_directory_missing_file_and_pipe(tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        read_card(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        read_card(tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        read_card(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content",
    [b"[0" + b",0" * 6_000_000 + b"]", b'{"lm loss": [' + b"{}," * 4_000_000, b'{"a":{},' * 2_000_000],
)
def test_large_json_that_is_no_card_is_refused_before_it_is_parsed(tmp_path, monkeypatch, content):
    path = tmp_path / "card.json"
    path.write_bytes(content)
    monkeypatch.setattr(card_reader.json, "loads", lambda *_, **__: pytest.fail("was parsed"))
    with pytest.raises(UsageError, match="not a golden card"):
        read_card(path)


def test_too_many_steps_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(card_reader, "LIMIT_STEPS", 3)
    path = tmp_path / "card.json"
    path.write_text(metric_text('"1": 1, "2": 1, "3": 1'))
    assert read_card(path).metrics["lm loss"].steps.size == 3
    path.write_text(metric_text('"1": 1, "2": 1, "3": 1, "4": 1'))
    with pytest.raises(UsageError, match="'lm loss': 4 steps; a golden card has at most 3"):
        read_card(path)


def test_200_mb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    with open(path, "wb") as file:
        file.truncate(200_000_000)
    monkeypatch.setattr(card_reader.json, "loads", lambda *_, **__: pytest.fail("was parsed"))
    with pytest.raises(UsageError, match="200000000 bytes"):
        read_card(path)


@pytest.mark.parametrize("change", ["longer", "rewritten", "replaced"])
def test_card_that_changes_while_it_is_read(tmp_path, monkeypatch, change):
    path = tmp_path / "card.json"
    path.write_text(metric_text('"1": 1.0'))
    other = tmp_path / "other.json"
    other.write_text(metric_text('"1": 2.0'))

    def open_and_change(name, mode):
        file = open(name, mode)  # noqa: SIM115 (handed on)
        if change == "longer":
            path.write_text(metric_text('"1": 1.0, "2": 2.0'))
        elif change == "rewritten":
            path.write_text(metric_text('"1": 3.0'))
            os.utime(path, ns=(0, 0))
        else:
            before = os.stat(path)
            os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.replace(other, path)
        return file

    monkeypatch.setattr(card_reader, "open", open_and_change, raising=False)
    with pytest.raises(UsageError, match="changed while it was read"):
        read_card(path)


values = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(),
    st.booleans(),
    st.none(),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
)
steps = st.one_of(
    st.integers(-2, 5).map(str), st.sampled_from(["1", "2", "3", "01", "+1", "1.0", "x", "", "٣"])
)
entries = st.one_of(
    values,
    st.fixed_dictionaries(
        {},
        optional={
            "start_step": values,
            "end_step": st.integers(0, 5),
            "step_interval": st.just(1),
            "values": st.dictionaries(steps, values, max_size=4),
            "value_precision": st.sampled_from(["full", "half", 1]),
        },
    ),
)
documents = st.one_of(
    st.dictionaries(st.sampled_from(["lm loss", "1", "", "num-zeros"]), entries, max_size=3).map(json.dumps),
    st.text(max_size=40),
    st.recursive(
        values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    ).map(json.dumps),
)


@settings(max_examples=400, deadline=None)
@given(content=st.one_of(documents.map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=40)))
def test_any_file_is_a_sound_card_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    try:
        card = read_card(path)
    except UsageError as error:
        message = str(error)
        card = Card(metrics={})
    else:
        message = f"{path}: "
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for metric in card.metrics.values():
        assert metric.steps.size == metric.values.size
        assert (np.diff(metric.steps) > 0).all()
        assert not np.isinf(metric.values[[step not in metric.texts for step in metric.steps.tolist()]]).any()


@settings(max_examples=100, deadline=None)
@given(numbers=st.dictionaries(st.integers(0, 10**9), st.floats(width=64), min_size=1, max_size=20))
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path_factory, numbers):
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    ordered = sorted(numbers)
    write_card(path, Card(metrics={"lm loss": metric_from(ordered, [numbers[step] for step in ordered])}))
    metric = read_card(path).metrics["lm loss"]
    assert metric.full_precision
    assert metric.steps.tolist() == ordered
    for step, value in zip(ordered, metric.values.tolist(), strict=True):
        if np.isfinite(numbers[step]):
            assert value == numbers[step]
        else:
            assert metric.texts[step] == str(numbers[step])


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(1, 400))
def test_a_card_cut_anywhere_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "cut.json"
    write_card(path, Card(metrics={"lm loss": metric_from(range(1, 30), [1.5] * 29)}))
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: -min(cut, len(content) - 1)])
    with pytest.raises(UsageError, match="line"):
        read_card(path)
