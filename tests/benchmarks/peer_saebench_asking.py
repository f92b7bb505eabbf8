"""In SAEBench's environment: its evaluations that ask a language model, on the cities, questions and text of a folder.

What they need of the hub is replaced, and what stops them with today's libraries or with a model that SAEBench does not
know. ``given`` means our random choices.
"""

import json
import os
import random
from pathlib import Path


def autointerp(saes, model, job, texts, data, given):
    import sae_bench.evals.autointerp.main as main

    os.environ["OPENAI_BASE_URL"] = job["url"]
    main.dataset_utils.load_and_tokenize_dataset = lambda *args: data["tokens"]
    config = main.AutoInterpEvalConfig(
        model_name=model, random_seed=0, n_latents=job["latents"], llm_context_size=data["tokens"].shape[1],
        total_tokens=data["tokens"].numel(), llm_batch_size=32, llm_dtype="float32",
    )  # fmt: skip
    main.run_eval(config, saes, "cpu", "no key", "out")
    return Path("out")


class Layer:
    """A decoder layer whose output is a tuple, as it was before transformers 4.54."""

    def __init__(self, layer):
        self.layer = layer

    def register_forward_hook(self, hook):
        def wrapped(module, inputs, output):
            found = hook(module, inputs, (output,))
            return found[0] if found is not None else None

        return self.layer.register_forward_hook(wrapped)


def ravel(saes, model, job, texts, data, given):
    import sae_bench.evals.ravel.instance as instance
    import sae_bench.evals.ravel.main as main

    main.activation_collection.get_module = lambda model, layer: Layer(model.model.layers[layer])
    main.LLM_NAME_MAP[model] = model
    attributes = list(texts["files"]["attribute_to_prompts"])
    config = main.RAVELEvalConfig(
        model_name=model, random_seed=0, entity_attribute_selection={"city": attributes}, llm_dtype="float32",
        num_pairs_per_attribute=job["pairs"], llm_batch_size=job["batch"],
    )  # fmt: skip
    base = Path(config.artifact_dir) / "base"
    base.mkdir(parents=True)
    for name, content in texts["files"].items():
        (base / f"ravel_city_{name}.json").write_text(json.dumps(content))
    if given:
        _give_pairs(main, instance, config, texts)
    main.run_eval(config, saes, "cpu", "out")
    return Path("out")


def _give_pairs(main, instance, config, texts):
    """Our token ids and positions of prompts, and our pairs in our order; its own labels and first answers."""
    build = instance.RAVELInstance.build_and_tokenize_prompts

    def built(self, tokenizer):
        for each in build(self, tokenizer):
            each.input_ids, each.final_entity_token_pos = texts["prompts"][each.text]
        return self.prompts

    instance.RAVELInstance.build_and_tokenize_prompts = built

    def loaders(dataset, cause_attribute, iso_attributes, config, sae, model):
        by_text = {each.text: each for each in dataset.prompts}
        pairs = []
        for base_text, source_text, cause in texts["pairs"][cause_attribute]:
            base, source = by_text[base_text], by_text[source_text]
            answered = source if cause else base
            pairs.append((
                base.input_ids, source.input_ids, base.attention_mask, source.attention_mask, base.final_entity_token_pos,
                source.final_entity_token_pos, base.first_generated_token_id, answered.first_generated_token_id, base.text,
                answered.attribute_label,
            ))  # fmt: skip
        train = int(len(pairs) * config.train_test_split)
        return [main.create_dataloader_from_pairs(some, model, config) for some in (pairs[:train], pairs[train:])]

    def run(dataset, cause_attribute, iso_attributes, config, sae, model):
        found = loaders(dataset, cause_attribute, iso_attributes, config, sae, model)
        main.create_dataloaders = lambda *args, **kwargs: found
        return evaluate(dataset, cause_attribute, iso_attributes, config, sae, model)

    evaluate, main.run_eval_single_cause_attribute = main.run_eval_single_cause_attribute, run


def unlearning(saes, model, job, texts, data, given):
    import sae_bench.evals.unlearning.main as main
    import sae_bench.evals.unlearning.utils.feature_activation as feature_activation
    import sae_bench.evals.unlearning.utils.metrics as metrics

    retained = texts["retain"]["subject"].replace(" ", "_")
    sides = {"wmdp-bio": "forget", retained: "retain"}

    def shuffled(tokens):
        return tokens[random.sample(range(len(tokens)), len(tokens))]

    feature_activation.get_shuffled_forget_retain_tokens = lambda *args, **kwargs: tuple(
        shuffled(data[side]) for side in ("forget", "retain")
    )
    metrics.load_dataset_with_retries = lambda path, name, split: texts[sides[name]]["questions"]
    metrics.load_dataset_from_name = lambda name: texts[sides[name]]["questions"]
    metrics.GEMMA_INST_FORMAT = texts["format"]
    metrics.PRE_WMDP_BIO = texts["before"].format(subject=texts["forget"]["subject"])
    metrics.PRE_QUESTION_FORMAT = texts["before"]
    waiting = [metrics.np.array(texts[side]["known"], dtype=int) for side in sides.values()]
    metrics._find_all_permutation_correct_ans = lambda found: waiting.pop(0)
    load = main.HookedTransformer.from_pretrained_no_processing

    def known(*args, **kwargs):
        found = load(*args, **kwargs)
        found.cfg.model_name = "gemma-2-2b-it"  # one of the two whose questions it can ask
        return found

    main.HookedTransformer.from_pretrained_no_processing = known
    config = main.UnlearningEvalConfig(
        model_name=model, random_seed=0, dataset_names=list(sides), dataset_size=len(data["forget"]),
        seq_len=data["forget"].shape[1], llm_batch_size=16, llm_dtype="float32",
    )  # fmt: skip
    main.run_eval(config, saes, "cpu", "out")
    return Path("out")
