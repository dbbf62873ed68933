"""The checkers of chapter 13 accept right answers and refuse known wrong ones."""

import pytest
import torch

from minirsa.exercises import chapter13
from minirsa.layers.relational import neighbourhood


def grouped_relational_kernel(query, keys, H):
    products = (query * keys).unflatten(1, (H.shape[1], -1)).sum(-1)
    return products.flatten() @ H.flatten(0, 1)


def interleaved_groups(query, keys, H):
    products = (query * keys).unflatten(1, (-1, H.shape[1])).sum(1)
    return products.flatten() @ H.flatten(0, 1)


def own_key_only(query, keys, H):
    """Attention's mistake: each weight from its own neighbour."""
    products = (query * keys).unflatten(1, (H.shape[1], -1)).sum(-1)
    return torch.einsum("mg,mgm->m", products, H)


def mean_of_groups(query, keys, H):
    products = (query * keys).unflatten(1, (H.shape[1], -1)).mean(-1)
    return products.flatten() @ H.flatten(0, 1)


def test_grouped_relational_kernel_is_accepted():
    assert "Hadamard" in chapter13.check_grouped_relational_kernel(grouped_relational_kernel)


@pytest.mark.parametrize("wrong", [
    interleaved_groups, own_key_only, mean_of_groups,
    lambda query, keys, H: (keys @ query).softmax(0),
    lambda query, keys, H: grouped_relational_kernel(query, keys, H.transpose(0, 2)),
    lambda query, keys, H: grouped_relational_kernel(query, keys, H)[None],
])  # fmt: skip
def test_wrong_grouped_relational_kernels_are_refused(wrong):
    with pytest.raises(AssertionError, match="for M = "):
        chapter13.check_grouped_relational_kernel(wrong)


def output_from_latent(latent, X_V, H2, G, identity):
    return (latent @ (H2.T @ X_V)) @ (identity + X_V.T @ G)


def test_output_from_latent_is_accepted_in_both_orders():
    assert "stored" in chapter13.check_output_from_latent(output_from_latent)
    chapter13.check_output_from_latent(lambda a, X, H2, G, I: a @ ((H2.T @ X) @ (I + X.T @ G)))


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda a, X, H2, G, I: (a @ (H2.T @ X)) @ (torch.eye(len(I), dtype=X.dtype) + X.T @ G), "error"),
    (lambda a, X, H2, G, I: (a @ (H2.T @ X)) @ (X.T @ G) + a @ (H2.T @ X), "error"),
    (lambda a, X, H2, G, I: (a @ (H2.T @ X)) @ (I + G.T @ X), "error"),
    (lambda a, X, H2, G, I: (a @ (H2.T @ X)) @ (I @ (X.T @ G)), "error"),
    (lambda a, X, H2, G, I: (a @ H2.T) @ (X @ I + X @ (X.T @ G)), "intermediate"),
    (lambda a, X, H2, G, I: (a @ H2.T) @ X @ I + ((a @ H2.T) @ (X @ X.T)) @ G, "intermediate"),
])  # fmt: skip
def test_wrong_outputs_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter13.check_output_from_latent(wrong)


def reverse_relational(layer, features, *, back=True, basic_of=lambda features: features):
    relational = layer.kernels(features.flip(2)).relational
    kernel = layer.kernels(basic_of(features)).basic + (relational.flip(3) if back else relational)
    value = neighbourhood(layer.project(features)[2], layer.kernel_size)
    gathered = torch.einsum("blmthw,bmcthw->blcthw", kernel, value)
    correlation = torch.einsum("bmcthw,em->bcethw", value, layer.G.flatten(1))
    out = torch.einsum("blcthw,ce->blethw", gathered, layer.I)
    out = out + torch.einsum("blcthw,bcethw->blethw", gathered, correlation)
    return out.transpose(1, 2).flatten(1, 2)


def query_first(layer, features):
    out = reverse_relational(layer, features)
    return out.unflatten(1, (layer.width, layer.queries)).transpose(1, 2).flatten(1, 2)


def test_reverse_relational_is_accepted():
    assert "exchanged" in chapter13.check_reverse_relational(reverse_relational)


@pytest.mark.parametrize("wrong", [
    lambda layer, features: layer(features),
    lambda layer, features: layer(features.flip(2)).flip(2),
    lambda layer, features: reverse_relational(layer, features, back=False),
    lambda layer, features: reverse_relational(layer, features, basic_of=lambda features: features.flip(2)),
    query_first,
])  # fmt: skip
def test_wrong_interventions_are_refused(wrong):
    with pytest.raises(AssertionError, match="on a clip"):
        chapter13.check_reverse_relational(wrong)
