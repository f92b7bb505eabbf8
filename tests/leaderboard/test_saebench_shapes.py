"""Every shape in which SAEBench has published results: which numbers are read, of which autoencoder, under which name.

The files are made after the JSON schemas and the output classes in SAEBench's repository (0.6 and its history).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from saebench.leaderboard.checks import load_boards
from saebench.leaderboard.imported import Imported, import_saebench, read_imported
from saebench.leaderboard.saebench_sae import FROM_AN_OPTION, FROM_THE_NAME
from saebench.leaderboard.site import build
from saebench.leaderboard.submit import import_results

RELEASE, SAE_ID = "sae_bench_tiny_sweep_topk_ctx128_0730", "blocks.4.hook_resid_post__trainer_10"
OLD = "tiny_sweep_topk_ctx128_0730/resid_post_layer_4/trainer_10"
ORIGIN = f"{RELEASE}/{SAE_ID}"
CONFIG = {
    "d_in": 512, "d_sae": 4096, "architecture": "standard", "activation_fn_str": "topk",
    "model_name": "tiny", "hook_name": "blocks.4.hook_resid_post",
}  # fmt: skip

SCHEMAS: dict[str, tuple[dict[str, Any], str, float, str]] = {
    "core": (
        {
            "model_behavior_preservation": {"kl_div_score": 0.9, "kl_div_with_sae": -1, "kl_div_with_ablation": 9.0},
            "sparsity": {"l0": 40.5, "l1": 60.0},
            "token_stats": {"total_tokens_eval_reconstruction": 2560},
            "misc_metrics": {"freq_over_1_percent": 0.01, "frac_alive": 0.9},
        },
        "sparsity.l0",
        40.5,
        "none",
    ),
    "sparse_probing": (
        {"llm": {"llm_test_accuracy": 0.95}, "sae": {"sae_top_1_test_accuracy": 0.7}},
        "sae_top_1_test_accuracy",
        0.7,
        "higher",
    ),
    "sparse_probing_sae_probes": (
        {"llm": {"llm_test_auc": 0.9}, "sae": {"sae_top_1_test_f1": 0.6}},
        "sae_top_1_test_f1",
        0.6,
        "higher",
    ),
    "absorption_first_letter": (
        {
            "mean": {
                "mean_absorption_fraction_score": 0.26,
                "mean_full_absorption_score": 0.25,
                "std_dev_full_absorption_score": 0.08,
            }
        },
        "mean_full_absorption_score",
        0.25,
        "lower",
    ),
    "autointerp": (
        {"autointerp": {"autointerp_score": 0.84, "autointerp_std_dev": 0.12}},
        "autointerp_score",
        0.84,
        "higher",
    ),
    "scr": (
        {"scr_metrics": {"scr_dir1_threshold_10": 0.75, "scr_metric_threshold_10": -1.0, "scr_metric_threshold_2": None}},
        "scr_metric_threshold_10",
        -1.0,
        "higher",
    ),
    "shift": ({"shift_metrics": {"scr_metric_threshold_20": 0.5}}, "scr_metric_threshold_20", 0.5, "higher"),
    "tpp": (
        {"tpp_metrics": {"tpp_threshold_10_total_metric": 0.14, "tpp_threshold_10_unintended_diff_only": 0.01}},
        "tpp_threshold_10_total_metric",
        0.14,
        "higher",
    ),
    "RAVEL": (
        {"ravel": {"disentanglement_score": 0.51, "cause_score": 0.59, "isolation_score": 0.43}},
        "cause_score",
        0.59,
        "higher",
    ),
    "unlearning": ({"unlearning": {"unlearning_score": 0.09}}, "unlearning_score", 0.09, "higher"),
    "meta_structure_decoder_variance": (
        {"meta_structure": {"decoder_fraction_variance_explained": 0.24}},
        "decoder_fraction_variance_explained",
        0.24,
        "none",
    ),
}
NAMES = {
    "absorption_first_letter": "absorption", "shift": "scr", "RAVEL": "ravel",
    "meta_structure_decoder_variance": "meta_structure",
}  # fmt: skip


def result(kind: str, model: str = "tiny", **changes: Any) -> dict[str, Any]:
    """A file of the newest shape."""
    data = {
        "eval_type_id": kind, "eval_config": {"model_name": model, "random_seed": 42}, "eval_id": "0",
        "datetime_epoch_millis": 0, "eval_result_metrics": SCHEMAS[kind][0], "eval_result_details": [],
        "sae_bench_commit_hash": "0123abc", "sae_lens_id": SAE_ID, "sae_lens_release_id": RELEASE,
        "sae_lens_version": "5.5.2", "sae_cfg_dict": CONFIG, "eval_result_unstructured": None,
    }  # fmt: skip
    return {**data, **changes}


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def one(*paths: Path, **options: str) -> Imported:
    entries, problems = import_saebench(paths, **options)
    assert problems == []
    (entry,) = entries
    return entry


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("config", [CONFIG, None, "absent"], ids=["with", "null", "without"])
def test_each_evaluation_with_and_without_the_configuration(tmp_path: Path, kind: str, config: Any) -> None:
    data = result(kind, sae_cfg_dict=config)
    if config == "absent":
        del data["sae_cfg_dict"]
    entry = one(write(tmp_path / "r.json", data))
    _, name, value, direction = SCHEMAS[kind]
    metric = entry.evaluators[f"saebench_{NAMES.get(kind, kind)}"].metrics[name]
    assert (metric.value, metric.direction, metric.standard_error) == (value, direction, None)
    assert metric.description.startswith("Imported from SAEBench, as it reports it")
    assert (entry.sae.origin, entry.model, entry.sae.hook) == (ORIGIN, "tiny", "blocks.4.hook_resid_post")
    known = config == CONFIG
    assert (entry.sae.architecture, entry.sae.n_latents) == (("topk", 4096) if known else ("unknown", None))
    assert entry.unvouched.get("hook") == (None if known else FROM_THE_NAME)


def test_all_evaluations_of_one_autoencoder_become_one_entry(tmp_path: Path) -> None:
    """Files have the same name in each evaluation's folder; RAVEL spells the model differently; unlearning uses another."""
    models = {"RAVEL": "google/tiny", "unlearning": "tiny-it"}
    paths = [
        write(tmp_path / kind / "same_eval_results.json", result(kind, models.get(kind, "tiny"), sae_cfg_dict=None))
        for kind in SCHEMAS
        if kind != "shift"
    ]
    entry = one(*paths, write(tmp_path / "d.json", result("core", eval_type_id="other")))
    assert sorted(entry.evaluators) == sorted({f"saebench_{NAMES.get(kind, kind)}" for kind in SCHEMAS} | {"saebench_other"})
    assert (entry.model, entry.sae.n_latents, entry.sae.architecture) == ("tiny", 4096, "topk")
    assert entry.unvouched["saebench_unlearning"] == "measured on the language model tiny-it"
    assert "saebench_ravel" not in entry.unvouched and "hook" not in entry.unvouched
    assert len(entry.files) == len(paths) + 1 and "ravel/same_eval_results.json" in entry.files


def test_a_later_import_adds_to_the_entry_and_replaces_the_same_evaluation(tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    (path,), _ = import_results([write(tmp_path / "core.json", result("core"))], boards)
    changed = {"autointerp": {"autointerp_score": 0.5}}
    import_results([write(tmp_path / "a.json", result("autointerp", sae_cfg_dict=None))], boards)
    (same,), problems = import_results(
        [write(tmp_path / "b.json", result("autointerp", eval_result_metrics=changed, sae_cfg_dict=None))], boards
    )
    assert same == path and problems == []
    entry = read_imported(path)
    assert list(entry.evaluators) == ["saebench_core", "saebench_autointerp"]
    assert entry.evaluators["saebench_autointerp"].metrics["autointerp_score"].value == 0.5
    assert sorted(entry.files) == ["autointerp/b.json", "core/core.json"]
    assert (entry.sae.n_latents, entry.sae.architecture) == (4096, "topk")


def test_the_shape_before_november_2024(tmp_path: Path) -> None:
    letters = {f"absorption_first_letter_{letter}": {"absorption_rate": 0.2, "num_absorption": 3} for letter in "ab"}
    data = {
        "eval_instance_id": "0", "sae_lens_release": RELEASE, "sae_lens_id": SAE_ID, "eval_type_id": "absorption",
        "sae_bench_version": "b516958", "eval_config": {"model_name": "tiny", "layer": 4},
        "eval_results": {**letters, "mean_absorption_rate": 0.23, "mean_num_split_features": 1.1},
        "eval_artifacts": {"artifacts": "None"},
    }  # fmt: skip
    entry = one(write(tmp_path / "old.json", data))
    assert {name: each.value for name, each in entry.evaluators["saebench_absorption"].metrics.items()} == {
        "mean_absorption_rate": 0.23,
        "mean_num_split_features": 1.1,
    }
    assert (entry.sae.origin, entry.suite_commit) == (ORIGIN, "b516958")
    keyed = write(tmp_path / "keyed.json", {f"{RELEASE}_{OLD}": data, "custom_eval_config": {"layer": 4}})
    assert one(keyed).evaluators == entry.evaluators


def test_description_lengths_are_a_list(tmp_path: Path) -> None:
    lengths = [{"num_bins": 8, "k": None, "description_length": 169.0, "mse_loss": 1.1, "within_threshold": False}]
    data = {"eval_type_id": "mdl", "sae_lens_release": RELEASE, "sae_lens_id": SAE_ID, "eval_config": {"model_name": "tiny"}}
    entry = one(write(tmp_path / "mdl.json", {**data, "eval_results": [*lengths, {**lengths[0], "num_bins": 16, "k": 4}]}))
    metrics = entry.evaluators["saebench_mdl"].metrics
    assert list(metrics) == [
        "bins_8.description_length", "bins_8.mse_loss", "bins_16_k_4.description_length", "bins_16_k_4.mse_loss",
    ]  # fmt: skip
    assert metrics["bins_8.description_length"].value == 169.0


def test_one_file_by_autoencoder(tmp_path: Path) -> None:
    settings = {
        "model_name": "tiny",
        "layer": 4,
        "selected_saes_dict": {RELEASE: [OLD], "some-scope": ["layer_4/width_16k/average_l0_22"]},
    }
    data = {
        "custom_eval_config": settings,
        "a/b_results": {OLD: {"sae_top_1_test_accuracy": 0.5}},
        "custom_eval_results": {
            OLD: {"sae_top_1_test_accuracy": 0.75},
            "layer_4/width_16k/average_l0_22": {"sae_top_1_test_accuracy": 0.8},
            "tiny_sweep/resid_post_layer_4_checkpoints/trainer_1_step_48": {"sae_top_1_test_accuracy": 0.6},
            "x": {"relative_overlap": 0.4}, "y": {"relative_overlap": 0.6}, "z": 3,
        },
    }  # fmt: skip
    path = write(tmp_path / "many.json", data)
    entries, problems = import_saebench([path], hook="blocks.4.hook_resid_post")
    assert [entry.sae.origin for entry in entries] == [
        ORIGIN,
        "some-scope/layer_4/width_16k/average_l0_22",
        "sae_bench_tiny_sweep/blocks.4.hook_resid_post__trainer_1_step_48",
    ]
    assert [entry.evaluators["saebench_sparse_probing"].metrics["sae_top_1_test_accuracy"].value for entry in entries] == [
        0.75, 0.8, 0.6,
    ]  # fmt: skip
    assert [entry.unvouched["hook"] for entry in entries] == [FROM_THE_NAME, FROM_AN_OPTION, FROM_THE_NAME]
    assert entries[1].sae.n_latents == 16384 and entries[1].unvouched["n_latents"] == FROM_THE_NAME
    assert entries[0].settings == {"sparse_probing": {"model_name": "tiny", "layer": 4}}
    assert problems == [
        f"{path}: x and 1 more: it does not say of which evaluation it is (eval_type_id), and its metrics do not tell it "
        "(relative_overlap)",
        f"{path}: z: it is not a result of SAEBench: eval_results is not an object",
    ]


def test_newest_files_by_autoencoder_and_metrics_alone(tmp_path: Path) -> None:
    key = f"{RELEASE}_{SAE_ID}"
    wrapped = write(tmp_path / "w.json", {key: result("unlearning", sae_cfg_dict=None), "other": 3})
    entries, problems = import_saebench([wrapped])
    assert [entry.sae.origin for entry in entries] == [ORIGIN]
    assert problems == [f"{wrapped}: other: it is not a result of SAEBench: it holds no JSON object"]
    alone = write(tmp_path / "alone.json", {key: {"autointerp_metrics": {"autointerp_score": 0.85}}})
    assert import_saebench([alone]).problems == [
        f"{alone}: nothing says the language model of {ORIGIN}: give it with --model"
    ]
    entry = one(alone, model="tiny")
    assert (entry.model, entry.sae.origin) == ("tiny", ORIGIN)
    assert entry.evaluators["saebench_autointerp"].metrics["autointerp_score"].value == 0.85


def test_the_oldest_tables_give_sizes_to_the_other_files(tmp_path: Path) -> None:
    trainer = {"trainer_class": "TrainerTopK", "activation_dim": 512, "dict_size": 4096, "lm_name": "EleutherAI/tiny",
               "submodule_name": "resid_post_layer_4"}  # fmt: skip
    table = {
        "sae_config_dictionary_learning": {OLD: {"trainer": trainer, "buffer": {"io": "out"}}},
        "basic_eval_results": {
            OLD: {"l0": 33.0, "frac_recovered": 0.97, "loss_zero": 12.4, "hyperparameters": {"n_inputs": 250}}
        },
    }
    path = write(tmp_path / "sae_bench_tiny_sweep_topk_ctx128_0730_data.json", table)
    entry = one(path, write(tmp_path / "core.json", result("core", sae_cfg_dict=None)))
    basic = entry.evaluators["saebench_basic"]
    assert {name: (each.value, each.direction, each.unit) for name, each in basic.metrics.items()} == {
        "l0": (33.0, "none", "latents"),
        "frac_recovered": (0.97, "higher", "1"),
        "loss_zero": (12.4, "none", "nats"),
    }
    assert basic.settings == {"n_inputs": 250}
    assert (entry.model, entry.sae.n_latents, entry.sae.d_in, entry.sae.architecture) == ("tiny", 4096, 512, "topk")
    assert "hook" not in entry.unvouched
    scope = {"basic_eval_results": {"layer_19/width_1m/average_l0_73": {"l0": 70.0}}}
    found = one(write(tmp_path / "gemma-scope-2b-pt-mlp_data.json", scope), model="gemma-2-2b")
    assert (found.sae.origin, found.sae.hook, found.sae.n_latents) == (
        "gemma-scope-2b-pt-mlp/layer_19/width_1m/average_l0_73", "blocks.19.hook_mlp_out", 2**20,
    )  # fmt: skip


def test_custom_autoencoders_and_long_names(tmp_path: Path) -> None:
    long = "saebench_gemma-2-2b_width-2pow16_date-0107_BatchTopK_gemma-2-2b__0108_resid_post_layer_12_trainer_"
    files = [
        write(
            tmp_path / f"{n}.json",
            result("tpp", sae_lens_release_id=f"{long}{n}", sae_lens_id="custom_sae", sae_cfg_dict=None),
        )
        for n in (1, 2)
    ]
    entries, problems = import_saebench(files)
    assert problems == [] and len({entry.name for entry in entries}) == 2
    assert all(len(entry.name) <= 80 for entry in entries)
    assert {(entry.sae.hook, entry.sae.n_latents) for entry in entries} == {("blocks.12.hook_resid_post", 2**16)}
    unnamed = write(
        tmp_path / "mine_custom_sae_eval_results.json", result("tpp", sae_lens_release_id=None, sae_lens_id=None)
    )
    assert one(unnamed).sae.origin == "mine_custom_sae/mine_custom_sae"


def test_files_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    core = write(tmp_path / "core.json", result("core"))
    wider = write(tmp_path / "wider.json", result("tpp", sae_cfg_dict={**CONFIG, "d_sae": 8192}))
    moved = write(tmp_path / "moved.json", result("scr", sae_cfg_dict={**CONFIG, "hook_name": "blocks.5.hook_resid_post"}))
    (entry,), problems = import_saebench([core, wider, moved])
    assert list(entry.evaluators) == ["saebench_core"]
    assert problems == [
        f"{wider}: its sae_cfg_dict.d_sae is 8192, but another file of the same autoencoder says 4096",
        f"{moved}: its hook is blocks.5.hook_resid_post, but another file of the same autoencoder says "
        "blocks.4.hook_resid_post",
    ]


def test_any_k_of_sae_probes(tmp_path: Path) -> None:
    data = result("sparse_probing_sae_probes", sae_metrics_by_k={"3": {"test_auc": 0.8}, "1": {"test_f1": 0.1}})
    metrics = one(write(tmp_path / "p.json", data)).evaluators["saebench_sparse_probing_sae_probes"].metrics
    assert (metrics["sae_top_3_test_auc"].value, metrics["sae_top_1_test_f1"].value) == (0.8, 0.6)


def test_pages_show_entries_of_unknown_width(tmp_path: Path) -> None:
    (path,), _ = import_results([write(tmp_path / "r.json", result("core", sae_cfg_dict=None))], tmp_path / "boards")
    (board,) = load_boards(tmp_path / "boards")
    assert board.problems == []
    assert build(tmp_path / "boards", tmp_path / "site") == 1
    page = next((tmp_path / "site").rglob(f"{path.stem}.html")).read_text()
    assert "unknown number of latents" in page and "Imported from SAEBench" in page


JUNK = [
    None,
    True,
    -1,
    0.5,
    10**40,
    "",
    "x" * 300,
    "\ud800",
    "../..",
    [],
    [[]],
    {},
    {"a": {"a": {"a": 1}}},
    float("nan"),
    {"": 1.0},
]


def mutated(data: Any, chance: random.Random) -> Any:
    """The same data with one value replaced, removed or moved."""
    copy = json.loads(json.dumps(data))
    place = copy
    while isinstance(place, dict) and place:
        key = chance.choice(sorted(place))
        if not isinstance(place[key], dict) or chance.random() < 0.4:
            what = chance.randrange(3)
            value = place.pop(key)
            if what:
                place[key if what == 1 else chance.choice(JUNK[5:9])] = chance.choice(JUNK) if what == 1 else value
            break
        place = place[key]
    return copy


@pytest.mark.parametrize("seed", range(200))
def test_a_mutated_file_gives_entries_that_can_be_read_or_a_sentence(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kind = chance.choice(list(SCHEMAS))
    shapes = [
        result(kind), {f"{RELEASE}_{SAE_ID}": result(kind)},
        {"custom_eval_config": {"model_name": "tiny"}, "custom_eval_results": {OLD: SCHEMAS[kind][0]}},
        {"basic_eval_results": {OLD: {"l0": 3.0}}, "sae_config_dictionary_learning": {OLD: {"trainer": CONFIG}}},
    ]  # fmt: skip
    data = chance.choice(shapes)
    for _ in range(chance.randint(1, 4)):
        data = mutated(data, chance)
    written, problems = import_results([write(tmp_path / "m.json", data)], tmp_path / "boards")
    assert written or problems
    assert all("\n" not in problem and "Traceback" not in problem for problem in problems)
    for path in written:
        assert read_imported(path).evaluators
