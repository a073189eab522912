"""Losses of published methods against formulas in float64 and bit-equalities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from broken_models import plain_cnn
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import (
    ENOUGH,
    EPSILON,
    THREAT,
    batch,
    by_hand,
    draws,
    linear_model,
    small_net,
    step,
)

from arnas.attacks.threat import Threat
from arnas.data.batches import Batch
from arnas.data.splits import LabelledImages
from arnas.models.features import logits_and_features
from arnas.runtime.errors import UserError
from arnas.runtime.progress import silent
from arnas.training.cost_sensitive import cost_matrix, cost_sensitive_loss
from arnas.training.infoat import infoat_loss, local_information
from arnas.training.interpolated import draw_mixture, iat_loss
from arnas.training.jsigr import jacobian_norm, jsigr_loss, salient_patches
from arnas.training.loop import TrainingData, TrainingTask, train
from arnas.training.losses import Step, mart_loss, natural_loss, pgd_loss, training_examples
from arnas.training.options import RetrainOptions
from arnas.training.registry import LossOptions, loss_options


def here(loss: dict[str, object] | str, model: nn.Module | None = None) -> Step:
    """Return a step on six images of three classes."""
    data = Batch(torch.rand(6, 1, 4, 4, generator=draws(4)), torch.arange(6) % 3)
    model = small_net().train() if model is None else model
    return step(model, data, THREAT, ENOUGH, draws(3), loss_options(loss))


@pytest.mark.parametrize("name", ["pgd", "natural"])
def test_smoothed_labels_are_spread_over_all_classes(name: str) -> None:
    now = here({"name": name, "label_smoothing": 0.3}, small_net().eval())
    x = training_examples(here("pgd", now.model)) if name == "pgd" else now.batch.x
    rows = np.log(by_hand(now.model(x)))
    own = rows[np.arange(6), now.batch.y].mean()
    expected = -(0.7 * own + 0.3 * rows.mean())
    loss = {"pgd": pgd_loss, "natural": natural_loss}[name]
    assert loss(now).loss.item() == pytest.approx(expected, rel=1e-6)


# Interpolated adversarial training


def test_iat_without_mixing_is_half_clean_half_adversarial() -> None:
    """To the bit."""
    x_adv = training_examples(here("pgd"))
    model, (x, y) = small_net().train(), here("pgd").batch
    clean, adversarial = F.cross_entropy(model(x), y), F.cross_entropy(model(x_adv), y)
    found = iat_loss(here({"name": "iat", "alpha": 0}))
    assert torch.equal(found.loss, (clean + adversarial) / 2)


def test_iat_is_the_mean_of_two_mixups(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same with (1 - share, the inverse partners); the attack sees unmixed images."""
    model, data, threat = linear_model(), batch(0.2, 0.8), Threat("linf", EPSILON)
    x_adv = training_examples(step(model, data, threat, ENOUGH, draws(3)))
    partner = torch.tensor([3, 2, 0, 1, 7, 4, 5, 6])
    expected = 0.0
    for x in (data.x, x_adv):
        rows = by_hand(model(0.3 * x + 0.7 * x[partner]))
        for row, own, other in zip(rows, data.y, data.y[partner], strict=True):
            expected -= (0.3 * np.log(row[own]) + 0.7 * np.log(row[other])) / 16
    for mixture in ((0.3, partner), (0.7, partner.argsort())):
        mixed = lambda _, mixture=mixture: mixture  # noqa: E731
        monkeypatch.setattr("arnas.training.interpolated.draw_mixture", mixed)
        found = iat_loss(step(model, data, threat, ENOUGH, draws(3), loss_options("iat")))
        assert found.loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    now = here({"name": "iat", "alpha": alpha})
    drawn = [draw_mixture(now) for _ in range(2000)]
    assert stats.kstest([share for share, _ in drawn], stats.beta(alpha, alpha).cdf).pvalue > 0.01
    where = torch.stack([partner for _, partner in drawn]).double().mean(0)
    torch.testing.assert_close(where, torch.full_like(where, 2.5), atol=0.15, rtol=0)


# InfoAT


@pytest.mark.parametrize("strength", [0.0, 5.0])
def test_infoat_with_the_weight_of_mart_is_mart(strength: float) -> None:
    """To the bit."""
    found = infoat_loss(here({"name": "infoat", "weight": "mart", "strength": strength}))
    assert torch.equal(found.loss, mart_loss(here({"name": "mart", "weight": strength})).loss)


def plain_information(model: nn.Module, x: Tensor, latent: bool) -> np.ndarray:
    """Return the information from Jacobians of one image at a time, by NumPy."""

    def outputs(image: Tensor) -> Tensor:
        logits, features = logits_and_features(model, image[None])
        return features[0] if latent else logits.softmax(1)[0]

    found = [torch.autograd.functional.jacobian(outputs, image) for image in x]
    grams = [j.flatten(1).double().numpy() @ j.flatten(1).double().numpy().T for j in found]
    scale = np.mean([np.diag(gram) for gram in grams])
    return np.array([np.linalg.slogdet(np.eye(len(g)) + g / scale)[1] / 2 for g in grams])


@pytest.mark.parametrize("latent", [False, True])
def test_the_information_is_that_of_the_jacobian(latent: bool) -> None:
    model, x = small_net().double().eval(), here("infoat").batch.x.double()
    found = local_information(model, x, latent)
    np.testing.assert_allclose(found.numpy(), plain_information(model, x, latent), rtol=1e-9)
    assert bool((found >= 0).all())
    many = local_information(model, x, latent, 2000, draws())
    torch.testing.assert_close(many, found, rtol=0.02, atol=0)


def test_the_information_of_a_linear_model_is_known() -> None:
    """The features' Jacobian is the identity: D / 2 log 2 for each image."""
    found = local_information(linear_model(), batch().x, of_features=True)
    torch.testing.assert_close(found, torch.full_like(found, 8 * np.log(2)))


def test_images_weigh_one_on_average() -> None:
    """Equal weights give the loss of `one`, and the model is left as it was."""
    model = small_net().train()
    equal = here("infoat", model)
    first = Batch(equal.batch.x[:1].repeat(6, 1, 1, 1), equal.batch.y[:1].repeat(6))
    found = [
        infoat_loss(
            step(model, first, THREAT, ENOUGH.model_copy(update={"steps": 0}), draws(3), settings)
        ).loss
        for settings in (loss_options("infoat"), loss_options({"name": "infoat", "weight": "one"}))
    ]
    torch.testing.assert_close(*found)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_without_a_linear_layer_has_no_features() -> None:
    with pytest.raises(UserError, match="Sequential has no linear layer"):
        logits_and_features(nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()), torch.rand(2, 1, 4, 4))


# J-SIGR


def by_jacobian(model: nn.Module, image: Tensor) -> Tensor:
    """Return the squared norm of one image's Jacobian, class by class."""
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image)
    return jacobian.square().sum()


def test_the_jacobian_norm_is_met_on_average() -> None:
    model, x = small_net().double().eval(), here("pgd").batch.x.double().requires_grad_()
    generator = draws()
    found = torch.stack([jacobian_norm(model(x), x, generator) for _ in range(4000)]).mean(0)
    exact = torch.stack([by_jacobian(model, image) for image in x.detach()])
    torch.testing.assert_close(found, exact, rtol=0.03, atol=0)


def test_jsigr_of_a_linear_model_is_known() -> None:
    """With all classes' directions in turn: 2 |w_0 - w_1|^2 times what the softmax says, masked."""
    model, data = linear_model(), batch()
    now = step(model, data, THREAT, ENOUGH, draws(3), loss_options({"name": "jsigr", "grid": 2}))
    kept = salient_patches(model, data.x, 2)
    assert kept.sum((1, 2, 3)).tolist() == [8.0] * 8
    p = model(data.x).softmax(1).gather(1, data.y[:, None]).squeeze(1)
    apart = (model[1].weight[0] - model[1].weight[1]).view(1, 1, 4, 4).square()
    off = ((1 - p) ** 2 * ((1 - kept) * apart).sum((1, 2, 3))).mean()
    direction = F.normalize(torch.randn(8, 2, generator=draws(3), dtype=torch.float64))
    jacobian = 2 * (direction @ model[1].weight).square().sum(1).mean()
    expected = F.cross_entropy(model(data.x), data.y) + 0.01 * jacobian + 0.5 * off
    torch.testing.assert_close(jsigr_loss(now).loss, expected)


def test_patches_are_kept_where_the_image_matters() -> None:
    """To a model that sees the left half of the image only."""

    class Left(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            left = x[..., :4].flatten(1)
            return torch.stack([left[:, ::3].sum(1), left[:, 1::2].sum(1)], 1)

    kept = salient_patches(Left(), torch.rand(5, 1, 8, 8, generator=draws()), 4)
    expected = torch.zeros(8, 8).index_fill(1, torch.arange(4), 1.0)
    assert torch.equal(kept, expected.expand(5, 1, 8, 8))


@pytest.mark.long
def test_jsigr_makes_robust_without_adversarial_examples() -> None:
    """Measured were 49 and 53 % against 15 and 17 % of natural training, at 93 % clean."""
    found = {}
    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None]).to(torch.uint8), torch.tensor(digits.target)
    data = TrainingData(LabelledImages(x[:1200], y[:1200]), LabelledImages(x[1200:], y[1200:]), 16)
    options = RetrainOptions(
        epochs=15,
        batch_size=64,
        optimiser="adam",
        learning_rate=0.002,
        milestones=[],
        weight_decay=0.0,
        selection={"steps": 20, "train_images": 1},
    )
    for name in ("natural", "jsigr"):
        torch.manual_seed(0)
        model = plain_cnn()
        task = TrainingTask(loss_options(name), data, options, Threat("linf", 0.15), (name,))
        found[name] = train(model, task, silent).last
    assert found["jsigr"].val_clean > 88
    assert found["jsigr"].val_robust > found["natural"].val_robust + 20


# Costs


@pytest.mark.parametrize(
    "settings",
    [
        {"protected": [2], "cost": 7.0},
        {"costs": [[0.0, 2.0, 5.0], [1.0, 0.0, 3.0], [4.0, 6.0, 0.0]]},
    ],
)
def test_confusions_cost_what_the_matrix_says(settings: dict[str, object]) -> None:
    now = here({"name": "cost_sensitive", "weight": 0.5, **settings}, small_net().eval())
    logits = now.model(training_examples(here("pgd", now.model)))
    probabilities = np.array(by_hand(logits))
    costs = np.array(settings.get("costs", [[0, 1, 7], [1, 0, 7], [7, 7, 0]]))
    expected = F.cross_entropy(logits.double(), now.batch.y).item()
    for p, y in zip(probabilities, now.batch.y.tolist(), strict=True):
        expected += 0.5 * sum(costs[j, y] * p[j] for j in range(3)) / 6
    assert cost_sensitive_loss(now).loss.item() == pytest.approx(expected, rel=1e-6)


def test_costs_that_weigh_nothing_are_pgd_training() -> None:
    """To the bit."""
    now = here({"name": "cost_sensitive", "protected": [1], "weight": 0})
    assert torch.equal(cost_sensitive_loss(now).loss, pgd_loss(here("pgd")).loss)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protected": [1, 3]}, "names class 3: allowed are 0 to 2"),
        ({"costs": [[0.0, 1.0], [1.0, 0.0]]}, "of 2 numbers: needed are 3 rows and columns"),
        ({"costs": [[0.0], [1.0, 0.0], [0.0]]}, "of 1 and 2 and 3 numbers"),
    ],
)
def test_costs_that_do_not_fit_the_classes_are_refused(
    settings: dict[str, object], words: str
) -> None:
    options: LossOptions = loss_options({"name": "cost_sensitive", **settings})
    with pytest.raises(UserError, match=words):
        cost_matrix(options, 3)
