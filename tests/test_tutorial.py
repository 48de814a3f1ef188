"""The tutorial, followed literally in a fresh clone, ends with what it promises."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests import checkout
from tests.documents import TUTORIAL, blocks

MARK = "===== block {} ====="


def missing_lines(promised: str, output: str) -> list[str]:
    """Promised lines that the output lacks, in this order. Of a line, the words must come in their order: the
    tutorial leaves out columns and what is longer than a page."""
    lines, missing = output.splitlines(), []
    for promise in promised.splitlines():
        pattern = ".*".join(re.escape(word) for word in promise.split("  ") if word.strip())
        place = next((index for index, line in enumerate(lines) if re.search(pattern, line)), None)
        if place is None:
            missing.append(promise)
        else:
            lines = lines[place + 1 :]
    return missing


def committed_copy(folder: Path) -> Path:
    """The checkout as it is now, committed: what the reader clones."""
    checkout.copy_to(folder, data=False)
    checkout.commit(folder)
    return folder


@pytest.mark.training
def test_the_tutorial_ends_with_what_it_promises(tmp_path: Path) -> None:
    """Literally, but for one thing: nox takes the environment of this test instead of installing the pins."""
    steps = blocks(TUTORIAL)
    commands = [block for block in steps if block.language == "sh"]
    script = "\n".join(f"echo '{MARK.format(block.line)}'\n{block.text}" for block in commands)
    repository = committed_copy(tmp_path / "repository")
    path = checkout.programs(tmp_path / "bin", nox=checkout.REAL_NOX)
    variables = {"REPOSITORY": str(repository), "RUN_TASKS": "yes"}
    outcome = checkout.run_script(script, cwd=tmp_path, path=path, **variables)
    assert outcome.returncode == 0, outcome.stdout
    promised = 0
    for block, following in itertools.pairwise(steps):
        if block.language == "sh" and following.language == "text":
            output = outcome.stdout.partition(MARK.format(block.line))[2].partition("=====")[0]
            assert missing_lines(following.text, output) == [], f"line {block.line}:\n{output}"
            promised += 1
    assert promised == len(commands)


def test_a_promise_is_held_to_its_words_and_their_order() -> None:
    output = "golden  lm loss  exact  1-12  = exact\nPASSED: 3 rows"
    assert missing_lines("golden  lm loss  = exact\nPASSED", output) == []
    assert missing_lines("PASSED\ngolden  lm loss", output) == ["golden  lm loss"]
    assert missing_lines("golden  lm loss  regression", output) == ["golden  lm loss  regression"]
