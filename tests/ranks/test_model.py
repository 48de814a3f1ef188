"""The model of a case as one rank builds it; a group that communicates nothing stands in for the others."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.program import answer_of

BUILT = {
    "gpt3_pp4": [7],
    "gpt3_pp4_resume_uneven_pipeline": [0, 2, 6],
    "gpt3_pp4_resume_swiglu": [0],
    "gpt3_pp4_resume_untied": [7],
    "gpt3_pp4_resume_per_token_loss": [7],
    "gpt3_pp4_resume_tunable_overlap": [7],
    "gpt3_pp4_resume_decoupled_lr": [0],
    "gpt3_pp4_resume_overlap_grad_reduce": [0],
}


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, int], dict]:
    """Models by case and rank."""
    return {
        (case, rank): answer_of("model.build", case, rank) for case, ranks in BUILT.items() for rank in ranks
    }


def test_the_plain_case_ties_its_embeddings_and_overlaps_nothing(models: dict) -> None:
    last = models["gpt3_pp4", 7]
    assert last["layers"] == [[4], [8], [12]]
    assert last["shared"] == ["output_layer.weight"]
    assert last["norms"] == ["LayerNorm"]
    assert not any(last["ddp"].values())
    assert last["overrides"] == [{"wd_mult": 0.0}]
    assert (last["group"], last["per token"], last["warm-up"]) == (4, False, False)


def test_what_was_sent_is_freed_where_the_schedule_waits_for_it(models: dict) -> None:
    waits = importlib.metadata.version("megatron-core") != "0.16.1"
    assert [built["frees"] for built in models.values()] == [waits] * len(models)


def test_before_the_first_gradients_are_reduced_there_is_time_for_something_else(models: dict) -> None:
    assert models["gpt3_pp4_resume_overlap_grad_reduce", 0]["reduced"] == ["before", 2, 1, 0]
    assert models["gpt3_pp4", 7]["reduced"] == []  # no reduction is overlapped


def test_stages_of_different_sizes_share_all_layers_between_them(models: dict) -> None:
    layers = [models["gpt3_pp4_resume_uneven_pipeline", rank]["layers"] for rank in (0, 2, 6)]
    assert layers == [[[1, 2]], [[3, 4, 5, 6]], [[11, 12]]]


def test_a_model_of_todays_kind_has_no_biases_and_no_learned_positions(models: dict) -> None:
    first = models["gpt3_pp4_resume_swiglu", 0]
    assert first["norms"] == ["RMSNorm"]
    assert not [name for name in first["names"] if name.endswith("bias") or "position" in name]
    assert first["wide"] == [[96, 16]]  # gate and value of 48


@pytest.mark.parametrize(
    ("case", "rank", "key", "value"),
    [
        ("gpt3_pp4_resume_untied", 7, "shared", []),
        ("gpt3_pp4_resume_per_token_loss", 7, "per token", True),
        ("gpt3_pp4_resume_tunable_overlap", 7, "group", 5),
        ("gpt3_pp4_resume_tunable_overlap", 7, "warm-up", True),
        (
            "gpt3_pp4_resume_decoupled_lr",
            0,
            "overrides",
            [{"wd_mult": 0.0}, {"max_lr": 0.0002, "min_lr": 1e-05, "is_decoupled_lr": True}],
        ),
        (
            "gpt3_pp4_resume_overlap_grad_reduce",
            0,
            "ddp",
            {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": False},
        ),
    ],
)
def test_what_a_case_is_there_for_reaches_the_model(
    models: dict, case: str, rank: int, key: str, value: object
) -> None:
    assert models[case, rank][key] == value
