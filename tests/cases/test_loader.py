"""Case files: reading, inheritance, rules, values of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.cases.loader import load_case, parse_settings
from tasks.cases.names import case_names
from tasks.util.exits import UsageError
from tests.cases.small_case import CONTENT, changed, error_of, load, write_case

MAIN_CASE = "gpt3_pp4_resume"


@pytest.mark.parametrize("platform_name", ["cpu_x86_64", "cpu_aarch64", "gpu1_h100", "dgx_a100", "gpu4_h100"])
def test_main_case_keeps_its_topology_on_every_platform(platform_name: str) -> None:
    world_size = 4 if platform_name.startswith("gpu4") else 8
    case = load_case(MAIN_CASE, platform_name=platform_name, world_size=world_size)
    assert case.model_args["--pipeline-model-parallel-size"] == 4
    assert case.model_args["--num-layers-per-virtual-pipeline-stage"] == 1
    assert case.model_args["--num-layers"] == 12
    assert case.model_args["--train-iters"] == 100
    assert case.test_type == "ckpt-resume"
    assert case.corpus is not None


def test_main_case_is_full_size_on_gpus_and_small_on_a_cpu() -> None:
    gpu = load_case(MAIN_CASE, platform_name="dgx_a100")
    cpu = load_case(MAIN_CASE, platform_name="cpu_x86_64")
    assert gpu.model_args["--hidden-size"] == 512
    assert cpu.model_args["--hidden-size"] < 64
    assert gpu.model_args["--make-vocab-size-divisible-by"] == 50304
    assert set(cpu.model_args) >= set(gpu.model_args), "the overlay drops a flag"
    assert cpu.model_args["--distributed-backend"] == "gloo"


def test_both_processors_run_the_same_case() -> None:
    x86, arm = (load_case(MAIN_CASE, platform_name=f"cpu_{name}") for name in ("x86_64", "aarch64"))
    assert x86.digest == arm.digest


def test_cases_are_listed_and_found_by_path() -> None:
    assert MAIN_CASE in case_names()
    by_path = load_case(f"test_cases/{MAIN_CASE}", platform_name="cpu_x86_64")
    assert by_path.name == MAIN_CASE


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    text = yaml.safe_dump(CONTENT).replace("--lr: 0.01", "--lr: 1e-2")
    assert load(write_case(tmp_path, text)).model_args["--lr"] == 0.01


def test_a_mapping_may_take_over_what_another_has(tmp_path: Path) -> None:
    merged = "PLATFORMS:\n  cpu_x86_64:\n    MODEL_ARGS: {<<: *base, --lr: 0.5}\n"
    text = yaml.safe_dump(CONTENT).replace("MODEL_ARGS:", "MODEL_ARGS: &base", 1) + merged
    assert load(write_case(tmp_path, text)).model_args["--lr"] == 0.5


def test_overlay_of_the_exact_name_wins_over_a_pattern(tmp_path: Path) -> None:
    platforms = {
        "gpu1_h100": {"MODEL_ARGS": {"--train-iters": 70}},
        "gpu1_*": {"MODEL_ARGS": {"--train-iters": 60, "--seed": 5}, "ENV_VARS": {"NCCL_ALGO": "Tree"}},
    }
    root = write_case(tmp_path, changed(PLATFORMS=platforms))
    case = load(root, platform_name="gpu1_h100")
    assert case.model_args["--train-iters"] == 70
    assert case.model_args["--seed"] == 5
    assert case.env_vars["NCCL_ALGO"] == "Tree"
    assert load(root, platform_name="dgx_a100").model_args["--train-iters"] == 100


def test_overrides_are_typed_and_checked(tmp_path: Path) -> None:
    root = write_case(tmp_path, CONTENT)
    case = load(root, overrides=parse_settings(["train-iters=60", "--bf16", "--lr=2e-3"]))
    assert case.model_args["--train-iters"] == 60
    assert case.model_args["--bf16"] is True
    assert case.model_args["--lr"] == 2e-3
    assert "--num-layers: 13" in error_of(root, overrides={"num-layers": "13"})
    assert "--save-interval: 50 must be below --train-iters 20" in error_of(
        root, overrides={"train-iters": "20"}
    )
    with pytest.raises(UsageError, match="no flag before"):
        parse_settings(["=5"])
    assert "is no flag" in error_of(root, overrides={"Train Iters": "5"})


def test_all_errors_of_a_file_are_shown_together(tmp_path: Path) -> None:
    content = changed(MODEL_ARGS={"num-layers": 12}, TEST_TYPE="ckpt-resum", METRICS=["lm los"])
    content["MODEL_ARG"] = {}
    message = error_of(write_case(tmp_path, content))
    assert "4 errors" in message
    assert "MODEL_ARG: unknown key. Did you mean MODEL_ARGS?" in message
    hint = "a flag is two dashes and lower-case words. Did you mean --num-layers?"
    assert f"MODEL_ARGS.num-layers: {hint}" in message
    assert "Did you mean ckpt-resume?" in message
    assert "METRICS: 'lm los' is unknown. Did you mean lm loss?" in message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"--num-layers": 14}, "--num-layers: 14 is not divisible by 4 pipeline stages x 1"),
        ({"--train-iters": "many"}, "MODEL_ARGS.--train-iters: 'many' must be a whole number of at least 1"),
        ({"--train-iters": True}, "MODEL_ARGS.--train-iters: True must be a whole number"),
        ({"--lr": "fast"}, "MODEL_ARGS.--lr: 'fast' must be a finite number of at least 0"),
        ({"--lr": None}, "--lr: is missing"),
        ({"--save-interval": None}, "--save-interval: is missing"),
        ({"--save-interval": 100}, "--save-interval: 100 must be below --train-iters 100"),
        ({"--load": {"a": 1}}, "MODEL_ARGS.--load: must be a number, text"),
        ({"--load": "${A:-b}"}, "no ${NAME}"),
    ],
)
def test_rules_of_flags(tmp_path: Path, args: dict, expected: str) -> None:
    assert expected in error_of(write_case(tmp_path, changed(MODEL_ARGS=args)))


@pytest.mark.parametrize("text", ["0", "-1", "2.7", "[3]", "true"])
@pytest.mark.parametrize("flag", ["exit-interval", "check-weight-hash-across-dp-replicas-interval"])
def test_a_value_of_the_command_line_has_the_type_of_its_flag(tmp_path: Path, flag: str, text: str) -> None:
    error = error_of(write_case(tmp_path, CONTENT), overrides={flag: text})
    assert f": --{flag}: " in error
    assert error.endswith("must be a whole number of at least 1")


@pytest.mark.parametrize("platform_name", ["cpu_x86_64", "dgx_a100"])
def test_values_that_others_lie_over_are_checked_too(tmp_path: Path, platform_name: str) -> None:
    """Also those of another platform, and of the restart."""
    overlay = {"MODEL_ARGS": {"--lr": 0.5, "--save-interval": 20, "--num-layers": 0}}
    content = changed(
        MODEL_ARGS={"--save-interval": 4.5},
        PLATFORMS={"cpu_x86_64": overlay},
        RESTART={"MODEL_ARGS": {"--lr": -1}},
    )
    error = error_of(write_case(tmp_path, content), platform_name=platform_name)
    assert "3 errors:" in error
    assert "\n  MODEL_ARGS.--save-interval: 4.5 must be a whole number of at least 1" in error
    assert "\n  PLATFORMS.cpu_x86_64.MODEL_ARGS.--num-layers: 0 must be a whole number" in error
    assert "\n  RESTART.MODEL_ARGS.--lr: -1 must be a finite number of at least 0" in error


def test_values_of_an_heir_without_effect_are_reported(tmp_path: Path) -> None:
    write_case(tmp_path, changed(PLATFORMS={"cpu_x86_64": {"MODEL_ARGS": {"--lr": 0.5}}}), "base")
    root = write_case(tmp_path, {"INHERIT": "base", "MODEL_ARGS": {"--lr": 1e-3}})
    line = "--lr: 0.001 of small has no effect: base, PLATFORMS.cpu_x86_64 sets 0.5"
    assert [str(found) for found in load(root).overridden] == [line]
    assert load(root, platform_name="dgx_a100").overridden == ()
    assert load(root, overrides={"lr": "0.25"}).overridden == ()


@pytest.mark.parametrize("platform_name", ["cpu_x86_64", "gpu1_h100", "dgx_h100_x2"])
@pytest.mark.parametrize("name", case_names())
def test_no_case_has_values_without_effect(name: str, platform_name: str) -> None:
    assert load_case(name, platform_name=platform_name).overridden == ()


def test_four_ranks_are_one_pipeline(tmp_path: Path) -> None:
    root = write_case(tmp_path, CONTENT)
    load(root, world_size=4)
    assert "2 ranks are not divisible" in error_of(root, world_size=2)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"METRICS": []}, "METRICS: must be a list"),
        ({"METRICS": ["lm loss", "lm loss"]}, "listed more than once"),
        ({"ENV_VARS": {"A": True}}, "ENV_VARS.A: true is ambiguous"),
        ({"ENV_VARS": {"A B": "1"}}, "ENV_VARS.A B: is no name"),
        ({"PLATFORMS": {"laptop": {}}}, "PLATFORMS.laptop: is no platform"),
        ({"PLATFORMS": {"dgx_a100": {"ARGS": {}}}}, "PLATFORMS.dgx_a100.ARGS: unknown key"),
        ({"PLATFORMS": {"dgx_a100": {"MODEL_ARGS": {"x": 1}}}}, "PLATFORMS.dgx_a100.MODEL_ARGS.x: a flag is"),
        ({"CORPUS": {"package": "sympy", "version": 1.14}}, "CORPUS.version: 1.14 must be text"),
        ({"CORPUS": {"package": "sympy"}}, "CORPUS.sha256: is missing"),
        ({"CORPUS": {"sha256": "abc"}}, "CORPUS.sha256: must be 64 hexadecimal digits"),
    ],
)
def test_rules_of_sections(tmp_path: Path, sections: dict, expected: str) -> None:
    assert expected in error_of(write_case(tmp_path, changed(**sections)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds nothing"),
        ("ENV_VARS: {}\n", "MODEL_ARGS: is missing"),
        ("MODEL_ARGS: text\nMETRICS: [lm loss]\n", "MODEL_ARGS: must be a mapping"),
    ],
)
def test_files_that_are_no_case(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in error_of(write_case(tmp_path, text))


def test_unknown_case_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean gpt3_pp4_resume"):
        load_case("gpt3_pp4_resum", platform_name="cpu_x86_64")
    with pytest.raises(UsageError, match="Cases: none"):
        load_case("anything", platform_name="cpu_x86_64", root=tmp_path)


def test_a_case_inherits_all_that_it_does_not_override() -> None:
    main = load_case("gpt3_pp4_resume", platform_name="dgx_a100")
    heir = load_case("gpt3_pp4_resume_common_pile", platform_name="dgx_a100")
    differing = {flag for flag in main.model_args if main.model_args[flag] != heir.model_args[flag]}
    assert differing == {"--vocab-size", "--make-vocab-size-divisible-by", "--data-path"}
    checkpoints = ("CHECKPOINT_LOAD_PATH", "CHECKPOINT_SAVE_PATH")
    assert heir.names_needed() == (*checkpoints, "DATA_CACHE_PATH", "DATA_PATH", "TENSORBOARD_PATH")
    assert heir.corpus is None
    assert heir.metrics == main.metrics
    assert heir.env_vars == main.env_vars
    assert heir.digest != main.digest


def test_inheritance_names_a_case_and_ends(tmp_path: Path) -> None:
    for name, base in (("one", "two"), ("two", "one"), ("three", "thre")):
        write_case(tmp_path, f"INHERIT: {base}\n", name)
    with pytest.raises(UsageError, match="INHERIT: one inherits from this case itself"):
        load_case("one", platform_name="cpu_x86_64", root=tmp_path)
    with pytest.raises(UsageError, match=r"there is no case 'thre'\. Did you mean three"):
        load_case("three", platform_name="cpu_x86_64", root=tmp_path)


def test_what_the_restart_cannot_do_on_a_platform_is_named(tmp_path: Path) -> None:
    for ranks, error in ((16, "16 ranks, cpu_x86_64 has 8"), (6, "6 ranks are not divisible")):
        assert error in error_of(write_case(tmp_path / error, {**CONTENT, "RESTART": {"RANKS": ranks}}))


def test_the_crash_case_is_the_main_case_with_a_kill() -> None:
    for platform_name in ("cpu_x86_64", "gpu1_h100", "dgx_a100"):
        main = load_case(MAIN_CASE, platform_name=platform_name)
        crash = load_case("gpt3_pp4_crash_resume", platform_name=platform_name)
        assert crash.digest == main.digest, "the main case's golden card does not hold for it"
        assert crash.golden_case == main.golden_case == MAIN_CASE
        assert main.kills == ()
        (kill,) = crash.kills
        assert int(crash.model_args["--save-interval"]) < kill.after_step < crash.last_iteration()
    load_case("gpt3_pp4_crash_resume", platform_name="gpu4_h100", world_size=4)


def crashing(*kills: object, **sections: object) -> dict:
    return changed(TEST_TYPE="crash-resume", CRASH=list(kills), **sections)


def test_kills_are_read_in_order(tmp_path: Path) -> None:
    kills = {"after_step": 60, "ranks": [0, 7]}, {"after_step": 51, "ranks": [3]}
    case = load(write_case(tmp_path, crashing(*kills)))
    assert [(kill.after_step, kill.ranks) for kill in case.kills] == [(60, (0, 7)), (51, (3,))]
    assert case.resolved()["kills"][1] == {"after_step": 51, "ranks": (3,)}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (changed(TEST_TYPE="crash-resume"), "CRASH: is missing"),
        (changed(CRASH=[{"after_step": 60, "ranks": [1]}]), "CRASH: only with TEST_TYPE crash-resume"),
        (changed(TEST_TYPE="crash-resume", CRASH={"after_step": 60}), "CRASH: must be a list of kills"),
        (crashing(), "CRASH: must be a list of kills"),
        (crashing({"after_step": 60}), "CRASH[0]: must be a mapping of after_step and ranks"),
        (crashing({"after_step": True, "ranks": [1]}), "CRASH[0].after_step: True must be"),
        (crashing({"after_step": 60, "ranks": []}), "CRASH[0].ranks: [] must be"),
        (crashing({"after_step": 60, "ranks": [1, 1]}), "CRASH[0].ranks: [1, 1] must be"),
        (crashing({"after_step": 60, "ranks": [-1]}), "CRASH[0].ranks: [-1] must be"),
        (crashing({"after_step": 60, "ranks": [8]}), "there is no rank 8; the run has 8"),
        (crashing({"after_step": 50, "ranks": [1]}), "CRASH[0].after_step: 50 must be above 50"),
        (crashing({"after_step": 100, "ranks": [1]}), "must be above 50 (--save-interval), below 100"),
        (changed(GOLDEN_CARD=7), "GOLDEN_CARD: must be the name of the case"),
        (changed(GOLDEN_CARD="smal"), "GOLDEN_CARD: there is no case 'smal'. Did you mean small?"),
    ],
)
def test_a_crash_that_cannot_be_is_refused(tmp_path: Path, content: dict, error: str) -> None:
    assert error in error_of(write_case(tmp_path, content))


def test_a_shorter_run_must_still_reach_the_kill(tmp_path: Path) -> None:
    root = write_case(tmp_path, crashing({"after_step": 73, "ranks": [1]}))
    assert "below 70" in error_of(root, overrides={"exit-interval": "70"})
