"""Suggest the nearest known name for an unknown one."""

from __future__ import annotations

from tasks.util.suggestions import did_you_mean, nearest

CASES = ["gpt3_pp4", "gpt3_pp4_resume"]


def test_a_close_word_is_offered() -> None:
    assert nearest("gpt3_pp4_resum", CASES) == "gpt3_pp4_resume"
    assert did_you_mean("gpt3_pp4_resum", CASES) == "Did you mean gpt3_pp4_resume?"


def test_the_known_words_are_listed_when_none_is_close() -> None:
    assert nearest("llama", CASES) is None
    assert did_you_mean("llama", CASES) == "Known: gpt3_pp4, gpt3_pp4_resume."


def test_a_heading_lists_the_known_words_in_any_case() -> None:
    assert did_you_mean("gpt3_pp", ["gpt3_pp4"], listed="Cases") == "Did you mean gpt3_pp4? Cases: gpt3_pp4"
    assert did_you_mean("llama", CASES, listed="Cases") == "Cases: gpt3_pp4, gpt3_pp4_resume"
    assert did_you_mean("llama", [], listed="Cases") == "Cases: none"


def test_the_cutoff_is_an_argument() -> None:
    assert nearest("gpt", CASES) is None
    assert nearest("gpt", CASES, cutoff=0.4) == "gpt3_pp4"
