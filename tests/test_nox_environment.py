"""Sessions that nox does not know."""

from __future__ import annotations

import pytest

from nox_environment import unknown_session


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-s first second", None),
        ("-l", None),
        ("--no-venv -s first -- --set x=1 nothing", None),
        ("-s frist", "no session 'frist'. Did you mean first? Sessions: first, second"),
        ("--session second --session firs --", "no session 'firs'. Did you mean first?"),
        ("-s zzz", "no session 'zzz'. Sessions: first, second"),
    ],
)
def test_an_unknown_session_is_reported_with_the_known_ones(line: str, said: str | None) -> None:
    problem = unknown_session(line.split(), ["first", "second"])
    assert (problem is None) if said is None else (said in problem)
