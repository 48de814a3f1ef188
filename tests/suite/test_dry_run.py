"""The dry run of a case: it reads what the run would read, and ends as the run would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.machine.platforms import environment
from tasks.records import card_store
from tasks.suite import dry_run
from tasks.suite.options import read_case_options
from tests.datasets import pair
from tests.stub_checkout import SOUND_CASE, add_case, add_sound_case

ENVIRONMENT = environment()
OWN, GENERIC = f"golden_values_{ENVIRONMENT}_cpu_x86_64.json", f"golden_values_{ENVIRONMENT}.json"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def plan(root: Path, *argv: str, case: str = "a_case") -> dry_run.Plan:
    options = read_case_options(argv if "--case-file" in argv else [case, *argv])
    return dry_run.plan(case, options, Path("runs/mine"), root=root)


def card_line(found: dry_run.Plan) -> str:
    (line,) = [line for line in found.lines if line.startswith("golden card: ")]
    return line.removeprefix("golden card: ")


@pytest.mark.parametrize("cards", [(OWN,), (GENERIC,), (OWN, GENERIC)])
def test_the_card_named_is_the_one_that_judging_would_take(tmp_path: Path, cards: tuple[str, ...]) -> None:
    own = add_sound_case(tmp_path, "a_case")
    card = own.read_bytes()
    own.unlink()
    for name in cards:
        own.with_name(name).write_bytes(card)
    found = card_store.find_card(tmp_path, "a_case", ENVIRONMENT, "cpu_x86_64").path.relative_to(tmp_path)
    planned = plan(tmp_path)
    assert planned.error is None
    assert card_line(planned).split(" (")[0] == str(found)
    assert ("approximate" in card_line(planned)) == (OWN not in cards)


def test_without_a_card_the_plan_is_shown_and_the_error_names_the_cure(tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case", card=False)
    planned = plan(tmp_path)
    assert planned.error.exit_code == 2
    assert str(planned.error).endswith('; record one: nox -s record -- a_case --reason "..."')
    assert card_line(planned) == "none that can be used"
    assert len([line for line in planned.lines if line.startswith("would run: ")]) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: empty"),
        ("[]", "must be a JSON object"),
        ("{}", "holds no metric"),
        ('{"lm loss": {"start_step": 1}}', "end_step must be a whole number"),
    ],
)
def test_a_broken_card_is_the_error_of_the_run(tmp_path: Path, text: str, message: str) -> None:
    add_sound_case(tmp_path, "a_case").write_text(text)
    assert message in str(plan(tmp_path).error)
    assert plan(tmp_path).error.exit_code == 2


def test_a_broken_provenance_is_the_error_of_the_run(tmp_path: Path) -> None:
    card_store.provenance_path(add_sound_case(tmp_path, "a_case")).write_text("{")
    assert "provenance.json: not JSON" in str(plan(tmp_path).error)


def test_a_case_compared_with_anothers_card_names_that_one(tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case")
    add_case(tmp_path, "crash", "INHERIT: heir\n")
    add_case(tmp_path, "heir", "INHERIT: a_case\nGOLDEN_CARD: a_case  # the same flags\n")
    assert card_line(plan(tmp_path, case="crash")) == f"goldens/a_case/{OWN}"


BROKEN = {
    "misspelt key": (SOUND_CASE + "METRIX: [lm loss]\n", "METRIX: unknown key. Did you mean METRICS"),
    "misspelt base": ("INHERIT: a_cas\n", "INHERIT: there is no case 'a_cas'. Did you mean a_case?"),
    "misspelt type": (SOUND_CASE.replace("ckpt-resume", "resume"), "TEST_TYPE: 'resume' is none."),
    "misspelt metric": (
        SOUND_CASE.replace("lm loss", "lm los"),
        "METRICS: 'lm los' is unknown. Did you mean",
    ),
    "unknown flag": (
        SOUND_CASE.replace("--lr:", "--lrr: 1\n  --lr:"),
        "unknown flag --lrr: did you mean --lr?",
    ),
    "tab": (SOUND_CASE.replace("  --lr", "\t--lr"), "line 15: found character '\\t'"),
    "duplicate key": (SOUND_CASE + "TEST_TYPE: regular\n", "the key TEST_TYPE stands here and on line 2"),
    "empty file": ("", "holds nothing where a mapping with MODEL_ARGS is expected"),
    "broken overlay": (
        SOUND_CASE + "PLATFORMS: {cpu_x86_64: {MODEL_ARGS: {--global-batch-size: 3}}}\n",
        "--global-batch-size: 3 is not divisible by",
    ),
    "overlay of no platform": (
        SOUND_CASE + "PLATFORMS: {cpu_z80: {}}\n",
        "PLATFORMS.cpu_z80: is no platform",
    ),
    "no checkpoint": (SOUND_CASE + "  --exit-interval: 5\n", "no checkpoint before iteration 5"),
    "no restart": (SOUND_CASE + "RESTART: {RANKS: 16}\n", "RESTART.RANKS: 16 ranks, cpu_x86_64 has 8"),
    "restart of another kind": (
        SOUND_CASE + "RESTART: {MODEL_ARGS: {--optimizer: sgd}}\n",
        "--optimizer: 'sgd' is not supported",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_case_is_the_error_of_the_run(tmp_path: Path, fault: str) -> None:
    text, message = BROKEN[fault]
    if fault == "no checkpoint":
        text = SOUND_CASE.replace("  --lr:", "  --exit-interval: 5\n  --lr:")
    add_sound_case(tmp_path, "a_case")
    add_case(tmp_path, "broken", text)
    planned = plan(tmp_path, case="broken")
    assert planned.lines == ()
    assert message in str(planned.error)
    assert planned.error.exit_code == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--set", "=5"], "--set =5: no flag before '='"),
        (["--set", "lr=fast"], "--lr: 'fast' must be"),
        (["--set", "lrr=1"], "unknown flag --lrr"),
        (["--set", "Lr=1"], "--Lr is no flag"),
        (["--rank-plugin", "none.py"], "--rank-plugin none.py: there is no such file"),
        (["--data-path", "none"], "--data-path none: there is no none.bin"),
        (["--hang-timeout", "0"], "--hang-timeout 0.0: must be more than 0"),
        (["--megatron-lm", "none"], "--megatron-lm none: is no checkout"),
        (["--baseline", "none"], "--megatron-lm none: is no checkout"),
    ],
)
def test_an_option_that_the_run_refuses_is_its_error(tmp_path: Path, argv: list[str], message: str) -> None:
    add_sound_case(tmp_path, "a_case")
    planned = plan(tmp_path, *argv)
    assert message in str(planned.error)
    assert planned.error.exit_code == 2


def checkout_of_megatron_lm(folder: Path) -> str:
    for part in ("pretrain_gpt.py", "megatron/core/__init__.py", "megatron/training/training.py"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).touch()
    return str(folder)


def test_options_that_have_it_compared_with_something_else(tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case")
    theirs = checkout_of_megatron_lm(tmp_path / "theirs")
    options = ["--megatron-lm", theirs, "--subject", "mine"]
    assert card_line(plan(tmp_path, *options)).startswith("from goldens/a_case@mine/; where there is none")
    (tmp_path / "theirs/.git").mkdir()
    compared = plan(tmp_path, "--baseline", theirs)
    assert "git knows no commit of it" in str(compared.error)


def test_the_card_of_a_case_file_lies_beside_it(tmp_path: Path) -> None:
    own = add_sound_case(tmp_path, "a_case", card=False)
    file = own.with_name("model_config.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(SOUND_CASE.split("CORPUS:")[0])
    data = tmp_path / "text"
    options = ["--case-file", str(file), "--data-path", str(data)]
    assert "there is no" in str(plan(tmp_path, *options, case="other").error)
    pair(data)
    assert f"put {OWN} beside the case file" in str(plan(tmp_path, *options, case="other").error)
    add_sound_case(tmp_path, "a_case")
    for given in (file, file.parent):
        planned = plan(tmp_path, "--case-file", str(given), "--data-path", str(data), case="other")
        assert card_line(planned) == f"goldens/a_case/{OWN}"


def test_the_platform_is_resolved(tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case")
    assert plan(tmp_path).lines[0] == f"platform: cpu_x86_64, 8 ranks; environment {ENVIRONMENT}"


def test_several_nodes_are_named(tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case")
    several = ["--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", "a:1", "--run-dir", "shared"]
    assert plan(tmp_path, *several).lines[0].endswith("this is node 1 of 2")


def test_a_value_without_effect_is_noted(tmp_path: Path) -> None:
    overlay = "PLATFORMS: {cpu_x86_64: {MODEL_ARGS: {--lr: 0.5}}}\n"
    add_sound_case(tmp_path, "base", overlay)
    add_case(tmp_path, "heir", "INHERIT: base\nGOLDEN_CARD: base\nMODEL_ARGS: {--lr: 0.001}\n")
    note = "note: --lr: 0.001 of heir has no effect: base, PLATFORMS.cpu_x86_64 sets 0.5"
    assert note in plan(tmp_path, case="heir").lines


def test_a_machine_that_cannot_run_it_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case")
    monkeypatch.setenv("CRASH_TEST_DEVICE", "quantum")
    assert str(plan(tmp_path).error) == "CRASH_TEST_DEVICE=quantum: must be cpu, cuda or not set"


def test_the_plan_names_every_step(tmp_path: Path) -> None:
    add_sound_case(tmp_path, "a_case")
    commands = [line for line in plan(tmp_path, "--set", "lr=1").lines if line.startswith("would run: ")]
    called = [line.split()[4].removeprefix("tasks.") for line in commands]
    assert called == ["train", "resume", "diff", "report"]
    assert commands[0].endswith("--set lr=1")
