"""A faster copy of a network to make adversarial examples on.

In evaluation mode a batch normalisation is a scale and a shift of each channel, which the
convolution before it can take over: the same function up to rounding, with fewer passes over
memory. A ReLU that several layers take of the same map is computed once. On a CPU the copy keeps
channels innermost in memory where a measurement finds that faster (`arnas.attacks.memory_order`).
With ``ARNAS_COMPILE=1`` the copy is compiled, which takes from half a minute to several.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from arnas.attacks.eval_mode import BatchNorm, frozen_eval
from arnas.attacks.memory_order import channels_last_is_faster, input_slope
from arnas.models.sharing import SharedBatchNorm2d, is_shared, share_batches
from arnas.runtime.device import compiles
from arnas.runtime.errors import one_line
from arnas.runtime.seeds import seeded

TRIED = 4
"""Images on which a copy is compared with its network."""
SAME_LOGITS, SAME_GRADIENT = 1e-4, 1e-2
"""Largest difference of a copy's logits, relative to the largest logit, and of its input gradients,
relative to their length. Rounding may flip a ReLU, which the gradient feels more."""
NORMS = (nn.BatchNorm2d, SharedBatchNorm2d)
PLAIN = (bool, int, float, str, type(None))
"""Types of attributes that are compared, alone or in lists, to see whether a network changed."""


@contextmanager
def attacked(model: nn.Module, x: Tensor, batch_norm: BatchNorm = "eval") -> Iterator[nn.Module]:
    """Yield the network to make examples on: frozen, and a faster copy of `model` if there is one.

    Parameters
    ----------
    model
        Pixels in [0, 1] to logits; inside it is as in `frozen_eval`, afterwards as before.
    x
        float of shape (N, C, H, W): the first images are those on which a new copy is compared
        with the model.
    batch_norm
        As for `frozen_eval`; with ``batch`` there is no copy.
    """
    with frozen_eval(model, batch_norm):
        network = attack_copy(model, x) if batch_norm == "eval" and len(x) else model
        with frozen_eval(network, batch_norm):
            yield network


def attack_copy(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy with the model's present weights that is faster to attack, or the model itself.

    The model itself where nothing can be folded or where a copy might be another function: hooks,
    control flow that depends on the images, random numbers, logits or input gradients that differ
    on the first of the images `x`. A copy is made once and has its weights renewed at every call.
    """
    kept = _COPIES.get(model)
    if kept is None or not kept.stands_for(model, x):
        kept = _COPIES[model] = _Kept(model, x)
    return model if kept.network is None else kept.network


class _Layer(NamedTuple):
    """A convolution of a copy, and what it stands for in the model."""

    into: nn.Conv2d
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None

    @torch.no_grad()
    def renew(self) -> None:
        """Take over the present weights and statistics."""
        weight, bias, norm = self.conv.weight, self.conv.bias, self.norm
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            statistics = (norm.running_mean, norm.running_var, norm.eps)
            weight, bias = fuse_conv_bn_weights(weight, bias, *statistics, norm.weight, norm.bias)
        self.into.weight.copy_(weight)
        if bias is not None:
            assert self.into.bias is not None
            self.into.bias.copy_(bias)


class _Kept:
    """A model's copy, or the knowledge that it has none, and for which state of the model it holds.

    It refers to the tensors of the model and not to the model, which may go.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.tensors = _tensors(model)
        self.settings = _settings(model)
        self.image = (x.shape[1:], x.dtype, x.device)
        self.network: nn.Module | None = None
        self.layers: list[_Layer] = []
        if any(_hooks(module) for module in model.modules()):
            return
        compiled = compiles()
        try:
            fastest, self.layers = _fastest(model, x, keep=compiled)
            if fastest is None:
                return
            network: Any = torch.compile(fastest) if compiled else fastest
            if is_shared(model):
                share_batches(network)
            if _same_function(model, network, x[:TRIED]):
                self.network = network
        except Exception as error:  # of a model that cannot be traced or copied, whatever it says
            if compiled:
                reason = one_line(error, 200)
                warnings.warn(f"the model is attacked without compiling: {reason}", stacklevel=2)

    def stands_for(self, model: nn.Module, x: Tensor) -> bool:
        """Return whether this holds for the present state of a model, and renew the weights."""
        tensors = _tensors(model)
        if (
            len(tensors) != len(self.tensors)
            or any(a is not b for a, b in zip(tensors, self.tensors, strict=True))
            or self.image != (x.shape[1:], x.dtype, x.device)
            or self.settings != _settings(model)
        ):
            return False
        for layer in self.layers if self.network is not None else ():
            layer.renew()
        return True


_COPIES: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def _tensors(model: nn.Module) -> list[Tensor]:
    """Return all parameters, buffers and other attributes that are tensors."""
    constants = (v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor))
    return [*model.parameters(), *model.buffers(), *constants]


def _settings(model: nn.Module) -> list[tuple[type, int, dict[str, Any]]]:
    """Return what a trace of a model depends on besides its tensors, as far as it can be seen."""
    return [
        (
            type(module),
            _hooks(module),
            {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in vars(module).items()
                if name != "training" and _is_plain(value)
            },
        )
        for module in model.modules()
    ]


def _is_plain(value: object) -> bool:
    """Return whether a value is a number, text or None, or a list or tuple of them."""
    return all(type(v) in PLAIN for v in (value if isinstance(value, list | tuple) else (value,)))


def _hooks(module: nn.Module) -> int:
    """Return the number of a module's hooks, those apart by which ranks share its batches."""
    forward = len(module._forward_pre_hooks) + len(module._forward_hooks)
    backward = len(module._backward_pre_hooks) + len(module._backward_hooks)
    return forward + backward - (2 if is_shared(module) else 0)


class _Tracer(fx.Tracer):
    """Follows the images through a model down to its layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a layer; our own convolutions are, too."""
        return isinstance(m, (nn.Conv2d, *NORMS)) or super().is_leaf_module(
            m, module_qualified_name
        )


def _fastest(
    model: nn.Module, x: Tensor, *, keep: bool
) -> tuple[fx.GraphModule | None, list[_Layer]]:
    """Return the fastest copy and its convolutions.

    There is none where it would not be faster than the model, unless asked to `keep` it.
    """
    network, layers, gains = _copied(model, turned=False)
    free = layers and not any("memory_format" in node.kwargs for node in network.graph.nodes)
    # Ranks that measure different orders would wait for each other.
    if x.device.type == "cpu" and x.dtype == torch.float32 and free and not is_shared(model):
        turned, other_layers, _ = _copied(model, turned=True)
        if channels_last_is_faster(turned, network, x):
            return turned, other_layers
    return (network if gains or keep else None), layers


def _copied(model: nn.Module, *, turned: bool) -> tuple[fx.GraphModule, list[_Layer], bool]:
    """Return a copy without the normalisations that follow on convolutions directly.

    Its convolutions have weights of their own, everything else has the tensors of the model. With
    `turned` channels are innermost in memory. Returned are also the convolutions, and whether
    anything was folded or shared.
    """
    # Only the modules are copied: a model may set attributes of its own while it is traced.
    skeleton = copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)}).eval()
    graph = _Tracer().trace(skeleton)
    network = fx.GraphModule(skeleton, graph)
    modules = dict(network.named_modules())
    changed = _share_relus(graph, modules)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    layers = []
    for node in list(graph.nodes):
        conv = modules.get(str(node.target)) if node.op == "call_module" else None
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or calls[node.target] > 1:
            continue
        after = next(iter(node.users)) if len(node.users) == 1 else node
        norm = modules.get(str(after.target)) if after.op == "call_module" else None
        if isinstance(norm, NORMS) and type(norm) in NORMS and norm.running_var is not None:
            after.replace_all_uses_with(node)
            graph.erase_node(after)
        else:
            norm = None
        into = _empty_like(conv, turned, bias=norm is not None or conv.bias is not None)
        network.add_submodule(str(node.target), into)
        layers.append(_Layer(into, conv, norm))
        layers[-1].renew()
        changed |= norm is not None
    if turned:
        _turn(graph)
    network.delete_all_unused_submodules()
    network.recompile()
    return network, layers, changed


def _empty_like(conv: nn.Conv2d, turned: bool, *, bias: bool) -> nn.Conv2d:
    """Return a convolution of the same kind with weights of its own."""
    into = copy.copy(conv)
    order = torch.channels_last if turned else torch.contiguous_format
    weight = torch.empty_like(conv.weight, memory_format=order)
    into._parameters = {
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": nn.Parameter(weight.new_empty(conv.out_channels), False) if bias else None,
    }
    return into


def _share_relus(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> bool:
    """Compute each ReLU of a map once, and return whether any was computed more often.

    In the cells of a searched network every operation has its own.
    """
    first: dict[fx.Node, fx.Node] = {}
    before = len(graph.nodes)
    for node in list(graph.nodes):
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.target not in (F.relu, torch.relu) and type(layer) is not nn.ReLU:
            continue
        if getattr(layer, "inplace", False) or node.kwargs.get("inplace") or len(node.args) != 1:
            continue
        shared = first.setdefault(node.args[0], node)
        if shared is not node:
            node.replace_all_uses_with(shared)
            graph.erase_node(node)
    return len(graph.nodes) < before


def _turn(graph: fx.Graph) -> None:
    """Let a network begin with channels innermost."""
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        turned = graph.call_method("to", (image,), {"memory_format": torch.channels_last})
    image.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)


def _same_function(model: nn.Module, network: nn.Module, x: Tensor) -> bool:
    """Return whether two networks agree in logits and input gradients, and draw nothing."""
    with seeded("folding"):
        # Noise, so that no two windows of a pooling layer hold equal values.
        x = (0.9 * x + 0.1 * torch.rand_like(x)).detach()
        state = torch.get_rng_state()
        with torch.no_grad():
            own, again, other = model(x), model(x), network(x)
        (own_2, slope), (other_2, other_slope) = (input_slope(one, x) for one in (model, network))
        drawn = not torch.equal(state, torch.get_rng_state())
    if drawn or not torch.equal(own, again):
        return False
    pairs = ((other, own), (other_2, own_2))
    agree = all(float((a - b).abs().max()) <= SAME_LOGITS * float(b.abs().max()) for a, b in pairs)
    return agree and float((slope - other_slope).norm()) <= SAME_GRADIENT * float(slope.norm())
