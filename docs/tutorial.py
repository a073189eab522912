# %% [markdown]
# # An interactive tour
#
# Ten minutes with the Python API: look at an architecture, train a small network adversarially,
# attack it, and see how a network can look robust without being so. Everything runs on one CPU
# core in about a quarter of a minute; nothing is downloaded.
#
# This page is the file `docs/tutorial.py`. VS Code, PyCharm and Jupytext open it as a notebook.
# Run it from the project's folder. The outputs below were printed when this page was built.

# %%
import torch

import arnas
from arnas import Threat, fgsm, pgd

torch.set_num_threads(1)  # small networks gain nothing from more

# %% [markdown]
# ## The images
#
# scikit-learn's digits: 1,797 real scans of 8x8 pixels. `load_dataset` cuts them into four splits.
# `train` and `search_val` are what a search and a training may learn from, `val`
# picks a checkpoint, and `test` is for attacks alone.

# %%
from arnas.data.load import load_dataset
from arnas.data.sources.registry import DigitsOptions

options = DigitsOptions(source="sklearn_digits", test_images=360, val_images=144)
splits = load_dataset("digits", options)
print(splits.counts())

images, y = splits.subset("test")
x = splits.pixels(images)  # float32 in [0, 1]
x, y = x[:100], y[:100]  # the first 100 will do here
print(x.shape, f"pixels from {x.min():g} to {x.max():g}")

# %% [markdown]
# ## An architecture
#
# A genotype says, for each kind of cell, which two operations enter each of its four nodes. States
# 0 and 1 are the outputs of the two cells before, states 2 to 5 the nodes. This is the genotype
# that ARNAS published.

# %%
from arnas.spaces.published import GENOTYPES

for kind, cell in GENOTYPES["arnas"].genotype.cells.items():
    print(kind)
    for node, edges in enumerate(cell, start=2):
        entering = " + ".join(f"{edge.primitive}({edge.state})" for edge in edges)
        print(f"  node {node}: {entering}")

# %% [markdown]
# At the published size it has 64 channels and 20 cells. Eight channels and four cells make a
# network small enough to train while you wait.

# %%
from arnas.runtime.seeds import seeded

published = arnas.build_model("arnas", num_classes=10)
with seeded("tour"):  # the same initial weights every time
    net = arnas.build_model(
        "arnas", num_classes=10, image_size=8, in_channels=1, channels=8, cells=4
    )
for name, model, shape in (("published", published, (3, 32, 32)), ("small", net, (1, 8, 8))):
    parameters, macs = arnas.count_parameters(model), arnas.count_macs(model, shape)
    print(f"{name:10} {parameters:>9,} parameters {macs:>13,} multiply-accumulates")

# %% [markdown]
# ## Adversarial training
#
# The threat model is what the attacker may do: here, move every pixel by at most 0.1. Training sees
# adversarial examples only, made anew for every batch; one PGD step keeps this tour short, the
# pipeline takes more. `robust` below is the accuracy under PGD on the validation images.

# %%
from arnas.training.loop import TrainingData, TrainingTask, train
from arnas.training.options import RetrainOptions, SelectionOptions, TrainingAttackOptions
from arnas.training.registry import loss_options

threat = Threat("linf", 0.1)
recipe = RetrainOptions(
    epochs=3,
    batch_size=64,
    schedule="cosine",
    milestones=[],
    attack=TrainingAttackOptions(steps=1, step_size=0.1, start="uniform", batch_norm="batch"),
    selection=SelectionOptions(steps=3, train_images=72),
)
data = TrainingData(splits.subset("train", "search_val"), splits.subset("val"), splits.info.scale)
task = TrainingTask(loss_options("pgd"), data, recipe, threat, seed_parts=("tour",))
result = train(net, task, lambda epoch, of, text: print(f"epoch {epoch} of {of}: {text}"))

net.load_state_dict(result.selected.weights)
net.eval()
print("selected: epoch", result.selected.epoch)

# %% [markdown]
# ## Attacks
#
# An attack takes a model, images, true labels and a threat model, and returns images inside the
# ball and inside [0, 1]. It leaves the model as it found it. Twenty small steps break more images
# than one large one.

# %%
with torch.no_grad():
    for name, x_adv in (
        ("clean", x),
        ("fgsm", fgsm(net, x, y, threat)),
        ("pgd, 20 steps", pgd(net, x, y, threat, steps=20)),
    ):
        right = (net(x_adv).argmax(1) == y).sum()
        moved = (x_adv - x).abs().max()
        print(f"{name:14} {right:3} of {len(y)} correct, pixels moved by {moved:.3f} at most")

# %% [markdown]
# `evaluate` runs the attacks of the tables, by name; its `pgd20` takes steps of epsilon / 4 from
# a random start of its own. It notes for each image whether it stands, and
# counts one as robust only if it is classified correctly clean as well. A share of 100 images is a
# rough estimate, so each accuracy comes with its Wilson 95 % interval.

# %%
from arnas import evaluate
from arnas.evaluation.statistics import wilson


def outcomes(model):
    """Return which images stand: ``clean`` and attack name to flags."""
    found = evaluate(model, x, y, threat, "fgsm,pgd20,cw_inf", combine="each", checks="none")
    return {name: outcome == 1 for name, outcome in found.outcomes.items()}


def show(table):
    """Print accuracies in percent with their intervals."""
    for name, flags in table.items():
        accuracy = wilson(int(flags.sum()), len(flags))
        print(f"{name:8} {accuracy.percent:5.1f} [{accuracy.low:.1f}, {accuracy.high:.1f}]")


honest = outcomes(net)
show(honest)

# %% [markdown]
# ## A network that only looks robust
#
# Multiply the logits by 1000. Not a single prediction changes, so the network is exactly as robust
# as before.


# %%
class Scaled(torch.nn.Module):
    """A network with its logits multiplied."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        return self.factor * self.inner(x)


masked = Scaled(net, 1000).eval()
looks_robust = outcomes(masked)
show(looks_robust)

# %% [markdown]
# FGSM and PGD now seem to fail. They climb the cross-entropy, and the softmax of logits this large
# is exactly 1 in float32: the gradient is zero and there is nothing to climb. `cw_inf` climbs the
# margin between logits instead, which does not saturate, and finds what it found before.
#
# So do the checks. The first compares these two attacks. The second gives the attack a budget of 1,
# with which it may turn any image into any other. Whatever survives that is an attack that does not
# work. The third shows the masked network examples made on the honest one: an attack that does not
# see the masked network must not do better than one that does.

# %%
from arnas.evaluation.checks import run as checks
from arnas.evaluation.predict import predict
from arnas.evaluation.transfer import transfer_examples

results = {}
for name, model, found in (("honest", net, honest), ("masked", masked, looks_robust)):
    robust = evaluate(model, x, y, Threat("linf", 1), "pgd20", checks="none").robust_accuracy
    white = found["clean"] & found["fgsm"] & found["pgd20"]
    other = net if name == "masked" else masked
    x_adv = transfer_examples(other, x, y, threat, steps=20, batch_size=256, seed=0)
    stands = (predict(model, x_adv, 256) == y) & found["clean"]
    results[name] = [
        checks.margin_not_stronger(found["pgd20"], found["cw_inf"]),
        checks.full_range(robust, "1", y),
        checks.blackbox_not_stronger(white, {"transfer": stands}),
    ]
    print(name)
    for check in results[name]:
        print(f"  {check.status} {check.id}: {check.evidence}")

# %% [markdown]
# Three lessons, which the pipeline follows by itself: attack with more than one loss, let the
# checks decide whether a figure may be believed, and never quote a share without its interval.
#
# [Evaluate any model](../how-to/evaluate-a-model.md) does the same for a network of your own, and
# [What the numbers mean](../explanation/numbers.md) explains every check.
