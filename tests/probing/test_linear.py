"""Linear probes by gradient descent, pooled latents, and which texts a problem has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.sparse import csr_array

from saebench.probing.activations import TextActivations
from saebench.probing.linear import Dense, Examples, LinearSettings, Sparse, fit_linear, linear_logits
from saebench.probing.pooled import pooled_latents
from saebench.probing.problems import one_against_rest
from saebench.sae import SparseAutoencoder

Make = Callable[..., SparseAutoencoder]


def codes(texts: int = 600, width: int = 40) -> tuple[csr_array, torch.Tensor]:
    """Sparse noise in which column 7 is the label with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(texts) % 2
    values = torch.rand(texts, width, generator=generator) * (torch.rand(texts, width, generator=generator) < 0.2)
    values[:, 7] = labels * 2.0 + 0.1 * torch.rand(texts, generator=generator)
    return csr_array(values.numpy()), labels


def settings(**changes: float) -> LinearSettings:
    given = {"batch": 16, "epochs": 3, "rate": 1e-3, "l1": 1e-3, "patience": 3, "validation": 0.0}
    return LinearSettings.model_validate(given | changes)


def test_negatives_are_balanced_over_the_other_classes() -> None:
    split = one_against_rest({"one": 50, "two": 50, "three": 50}, 10, "two", torch.Generator().manual_seed(0))
    assert sorted(split.rows[split.labels == 1].tolist()) == list(range(60, 110))
    negative = split.rows[split.labels == 0]
    assert negative.numel() == 50 and negative.unique().numel() == 50
    assert ((negative < 60).sum(), (negative >= 110).sum()) == (25, 25)


def test_sparse_and_dense_values_give_the_same_probe() -> None:
    values, labels = codes()
    chosen = settings(batch=50, epochs=5, rate=0.01, patience=5, validation=0.1)
    examples = Examples(torch.arange(400).unsqueeze(0), labels[:400].unsqueeze(0))
    one = fit_linear(Sparse(values), examples, chosen, 3)
    two = fit_linear(Dense(torch.from_numpy(values.toarray())), examples, chosen, 3)
    torch.testing.assert_close(one.weight, two.weight, atol=1e-5, rtol=1e-4)
    assert one.epoch.tolist() == two.epoch.tolist()


def test_probes_trained_together_are_those_trained_alone() -> None:
    values, labels = codes()
    source = Dense(torch.from_numpy(values.toarray()))
    index = torch.stack([torch.arange(400), torch.arange(200, 600)])
    both = fit_linear(source, Examples(index, labels[index]), settings(), 0)
    first = fit_linear(source, Examples(index[:1], labels[index][:1]), settings(), 0)
    torch.testing.assert_close(both.weight[:1], first.weight)
    assert both.epoch.tolist() == [3, 3]  # without validation texts the last epoch
    assert linear_logits(source, both, index).shape == (2, 400)


def test_a_probe_that_is_trained_longer_reads_the_informative_column() -> None:
    values, labels = codes()
    source = Dense(torch.from_numpy(values.toarray()))
    examples = Examples(torch.arange(400).unsqueeze(0), labels[:400].unsqueeze(0))
    fitted = fit_linear(source, examples, settings(epochs=20, rate=0.01), 0)
    assert int(fitted.weight[0].abs().argmax()) == 7
    right = (linear_logits(source, fitted, torch.arange(400, 600).unsqueeze(0))[0] > 0) == (labels[400:] == 1)
    assert right.all()


def test_latents_are_pooled_as_a_mean_over_tokens(make_sae: Make) -> None:
    sae = make_sae()
    rows = torch.randn(700, 32, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((300,), 2)
    lengths[:100] = 3
    owner = torch.arange(300).repeat_interleave(lengths)
    found = pooled_latents(sae, TextActivations(rows, owner, 0, "", False), 300, "mean")
    dense = sae.encode(rows).to_dense()
    slow = torch.stack([dense[owner == text].mean(dim=0) for text in range(300)])
    torch.testing.assert_close(torch.from_numpy(found.toarray()), slow)


def test_sets_of_probes_that_are_fitted_together_are_those_fitted_alone() -> None:
    values, labels = codes()
    source = Dense(torch.from_numpy(values.toarray()))
    index = torch.stack([torch.arange(start, start + 200) for start in (0, 100, 300)])
    examples = Examples(index, labels[index])
    together = fit_linear(source, examples, settings(), 5, [0, 0, 1])
    first = fit_linear(source, Examples(*(each[:1] for each in examples)), settings(), 5)
    rest = fit_linear(source, Examples(*(each[1:] for each in examples)), settings(), 5)
    torch.testing.assert_close(together.weight, torch.cat([first.weight, rest.weight]), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(together.bias, torch.cat([first.bias, rest.bias]), atol=1e-7, rtol=1e-6)
