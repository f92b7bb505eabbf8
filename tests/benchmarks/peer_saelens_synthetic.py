"""Run in SAELens's environment: its synthetic data, its TopK trained on them, and its figures of that SAE.

Usage: python peer_saelens_synthetic.py make FOLDER SAMPLES, or measure FOLDER (of an SAE's weights: sae.safetensors).
"""

import json
import sys
from pathlib import Path

import torch
from sae_lens import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.synthetic import (
    HierarchyConfig,
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    ZipfianFiringProbabilityConfig,
    eval_sae_on_synthetic_data,
    train_toy_sae,
)
from safetensors.torch import load_file, save_file

D, FEATURES, LATENTS, K, BATCH = 96, 512, 256, 10, 1024
CONFIG = SyntheticModelConfig(
    num_features=FEATURES, hidden_dim=D, seed=0, bias=0.5, mean_firing_magnitudes=3.0, std_firing_magnitudes=0.75,
    firing_probability=ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.2, min_prob=0.002),
    hierarchy=HierarchyConfig(total_root_nodes=16, branching_factor=4, max_depth=2, mutually_exclusive_portion=1.0),
    correlation=LowRankCorrelationConfig(rank=8, correlation_scale=0.1, seed=4),
    orthogonalization=OrthogonalizationConfig(num_steps=100, chunk_size=512),
)  # fmt: skip


def figures(sae, model) -> dict:
    torch.manual_seed(1)
    found = eval_sae_on_synthetic_data(sae, model.feature_dict, model.activation_generator, 65_536, 8192)
    return {"mcc": found.mcc, "f1": found.classification.f1_score, "uniqueness": found.uniqueness,
            "explained_variance": found.explained_variance, "l0": found.sae_l0, "true_l0": found.true_l0,
            "dead": found.dead_latents}  # fmt: skip


def make(folder: Path, samples: int) -> None:
    model = SyntheticModel(CONFIG)
    torch.manual_seed(0)
    training = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=LATENTS, k=K))
    train_toy_sae(training, model.feature_dict, model.activation_generator, samples, BATCH, lr=1e-3)
    print(json.dumps(figures(training, model)))
    (folder / "saelens").mkdir()
    training.fold_W_dec_norm() if hasattr(training, "fold_W_dec_norm") else None
    training.save_inference_model(folder / "saelens")
    with torch.no_grad():
        torch.manual_seed(2)
        parts = [model.activation_generator.sample(8192) for _ in range(samples // 8192)]
        train = torch.cat([model.feature_dict(part) for part in parts])
        code = torch.cat([model.activation_generator.sample(8192) for _ in range(4)])
        held_out = model.feature_dict(code)
    save_file({"train": train, "code": code.contiguous(), "held_out": held_out.contiguous(),
               "directions": model.feature_dict.feature_vectors.detach().contiguous()},
              folder / "data.safetensors")  # fmt: skip


def measure(folder: Path) -> None:
    tensors = load_file(folder / "sae.safetensors")
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=tensors["W_enc"].shape[1], k=K, apply_b_dec_to_input=True))
    sae.load_state_dict(tensors)
    print(json.dumps(figures(sae, SyntheticModel(CONFIG))))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        measure(Path(sys.argv[2]))
