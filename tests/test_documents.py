"""Every command in README and docs works: it is run, or its command line read where it would train.

Commands stand in blocks marked ``sh`` and in code spans that begin with a known program. A block that needs
what a test has not is marked by a comment before it: ``<!-- needs: docker -->``. A command that is neither
known nor marked is not found on the PATH of the test, which fails it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests import checkout
from tests.documents import TUTORIAL, blocks

DOCS = sorted(REPOSITORY.glob("docs/*.md"))
FILES = [REPOSITORY / "README.md", *DOCS, *sorted(REPOSITORY.glob("benchmarks/*.md"))]
LANGUAGES = {"mermaid", "sh", "text", "yaml"}
COMMAND = re.compile(
    r"(?:\$ )?(?:nox|make|python3?|pip|git|docker|podman|apptainer|sbatch|srun|salloc|export|sudo|apt) "
)
PLACEHOLDERS = {
    "CASE": "gpt3_pp4_resume",
    "NAME": "memory_leak",
    "FILE": "plugin.py",
    "RUN_DIR": "runs/other",
    "DIR": "runs/mine",
    "PREFIX": "data/text",
    "SITE_PACKAGES": "docs",
}
# A Python of the reader's, whose environment has the nox that all tests of documents have.
GIVEN_PYTHON = """#!/bin/bash
[ "$*" = "-m venv .venv" ] || exit 0
mkdir -p .venv/bin
printf '#!/bin/bash\\n' > .venv/bin/python
printf '#!/bin/bash\\nexec nox "$@"\\n' > .venv/bin/nox
chmod +x .venv/bin/python .venv/bin/nox
"""
SBATCH = '#!/bin/bash\nSLURM_JOB_ID=7 exec bash "$@"\n'
SRUN = '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'


def spans(path: Path) -> list[str]:
    """Code spans outside of blocks that are commands."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [span for span in re.findall(r"`([^`]+)`", text) if COMMAND.match(span)]


def concrete(command: str) -> str:
    """The command with something in the place of what the reader puts in."""
    command = re.sub(r"\b[A-Z][A-Z_]+\b(?!=|\.)", lambda match: PLACEHOLDERS.get(match[0], match[0]), command)
    return command.replace("/path/to/python3.12", "given-python")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout.copy_to(tmp_path_factory.mktemp("documents") / "checkout")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path") / "bin"
    programs = {"nox": checkout.NOX, "sbatch": SBATCH, "srun": SRUN, "given-python": GIVEN_PYTHON}
    return checkout.programs(folder, **programs)


@pytest.mark.parametrize("document", FILES, ids=lambda path: path.name)
def test_a_block_says_whether_it_is_to_be_run(document: Path) -> None:
    for block in blocks(document):
        place = f"{document.name}, line {block.line}"
        assert block.language in LANGUAGES, f"{place}: mark the block as one of {sorted(LANGUAGES)}"
        if block.language != "sh":
            commands = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not commands, f"{place}: commands in a block that is not sh"


@pytest.mark.sessions
@pytest.mark.parametrize("document", [path for path in FILES if path != TUTORIAL], ids=lambda path: path.name)
def test_every_command_of_a_document_works(document: Path, copy: Path, path: Path) -> None:
    scripts = [block.text for block in blocks(document) if block.language == "sh" and not block.marked]
    for command in [*scripts, *dict.fromkeys(spans(document))]:
        outcome = checkout.run_script(concrete(command), cwd=copy, path=path, timeout_s=60)
        assert outcome.returncode == 0, f"{document.name}: {command}\n{outcome.stdout}"


@pytest.mark.sessions
@pytest.mark.parametrize(
    "command",
    [
        "nox -s no_such_session",
        "nox -s gpt3_pp4_resume -- --no-such-option",
        "nox -s faults -- --no-such-option",
        "python -m tasks.diff --no-such-option",
        "python -m tasks.no_such_task",
        "python benchmarks/main_job.py --no-such-option",
        "python -m benchmarks.no_such_benchmark",
        "python tasks/util/exits.py",
        "make no-such-target",
        "sbatch slurm/no_such_file",
        "docker run anything",
        "no-such-program",
    ],
)
def test_a_command_that_is_wrong_or_unknown_is_seen(command: str, copy: Path, path: Path) -> None:
    assert checkout.run_script(command, cwd=copy, path=path).returncode != 0


@pytest.mark.parametrize("document", FILES, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_document_is_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", (REPOSITORY / "README.md").read_text()))
    assert {str(path.relative_to(REPOSITORY)) for path in DOCS} == linked
