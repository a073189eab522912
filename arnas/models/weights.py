"""Weights from elsewhere: do they fit a network, and which weights are they."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from arnas.runtime.errors import UserError, one_line
from arnas.runtime.files import sha256_bytes
from arnas.runtime.seeds import make_generator, seeded

WRAPPERS = {"module", "_orig_mod"}
"""What data parallelism, averaging and compilation put into names."""
AVERAGED = {"n_averaged"}
"""What averaging keeps beside the weights."""
DEEPEST = 4
"""Segments of a name from which no prefix is looked for."""
PROBES = 16
"""Images, and as many of noise, whose logits tell models apart."""
SHOWN = 3
"""Names of each kind in a message."""
COUNTERS = "num_batches_tracked"
"""Buffers of batch normalisation that mean nothing in evaluation mode; PyTorch 0.3 had none."""


def weights_sha256(model: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers of a model.

    Names, dtypes, shapes and values enter, in the order of the names, so that the same weights in
    the same network have the same digest however they were loaded and on any device. A tensor that
    has two names counts under both.
    """
    total = hashlib.sha256()
    for name, value in sorted(_named_tensors(model), key=lambda item: item[0]):
        plain = value.detach()
        plain = (plain.dequantize() if plain.is_quantized else plain).cpu().contiguous()
        total.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        total.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def answers_sha256(model: nn.Module, x: Tensor) -> str:
    """Return the sha256 of a model's logits on a few images and on noise of their shape.

    They are rounded to a thousandth of their size, so that the order of sums does not show; a model
    that draws random numbers gets the same ones each time.

    Parameters
    ----------
    x
        float of shape (n, C, H, W), n from 1 up, on the model's device.
    """
    generator = make_generator("probes")
    noise = torch.rand((PROBES, *x.shape[1:]), generator=generator).to(x)
    with seeded("answers"), torch.no_grad():
        logits = model(torch.cat([x[:PROBES], noise])).double().cpu()
    scaled = torch.round(1000 * logits / logits.abs().max().clamp_min(1e-30))
    return sha256_bytes(scaled.nan_to_num(0.5).to(torch.float32).numpy().tobytes())


def load_state_dict_checked(
    model: nn.Module, tensors: Mapping[str, Tensor], shown: str
) -> list[str]:
    """Copy weights into a model, which keeps its dtypes, if names, shapes and kinds of numbers fit.

    Names may have the segments of wrappers and a prefix, beside other networks, and the weights may
    be those of a part of the model whose rest has buffers only, such as a normalisation. `shown` is
    the file, for messages.

    Returns
    -------
    list of str
        What is worth knowing, each a clause without a full stop.

    Raises
    ------
    UserError
        When they are those of another network.
    """
    wanted = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    tensors = {key: value for key, value in tensors.items() if key not in AVERAGED}
    found, prefix, within = _fit(tensors, wanted, shown)
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    kept = {key for key in wanted if not key.startswith(within) and key not in parameters}
    needed = {key: value for key, value in wanted.items() if key not in kept}
    found |= _tied(model, found, needed)
    if problem := _misfit(found, needed):
        raise UserError(
            f"{shown} does not fit the network ({problem}): name the network, in the size, that it "
            "was written for."
        )
    notes = [f"{shown}: {note}" for note in _conversions(found, needed)]
    if kept - found.keys():
        notes.append(f"{shown} has no {_some(sorted(kept))}, which the network sets itself")
    if left := [key for key in tensors if not _without_wrappers(key).startswith(prefix)]:
        notes.append(
            f"{shown}: {len(left)} tensors are left out, {_some(left)}; used are {prefix}*"
        )
    if absent := {key for key in needed if key not in found and key.endswith(COUNTERS)}:
        notes.append(f"{shown} lacks {len(absent)} counters of batches, which are not used here")
    try:
        model.load_state_dict(found, strict=False)
    except Exception as error:  # of hooks that a network has of its own
        raise UserError(
            f"{shown} does not fit the network ({one_line(error)}): name the network that it was "
            "written for."
        ) from None
    return notes


def check_values(model: nn.Module, shown: str) -> list[str]:
    """Return a warning where weights are not finite.

    Raises
    ------
    UserError
        When the model has weights without values, which cannot be attacked.
    """
    named = list(_named_tensors(model))
    for name, value in named:
        if is_lazy(value) or value.is_meta:
            raise UserError(
                f"{shown} has no values for '{one_line(name)}': make the network on the CPU, and "
                "load its weights before it is returned."
            )
    odd = [name for name, value in named if not _finite(value)]
    if not odd:
        return []
    return [f"{shown}: {len(odd)} of {len(named)} tensors hold NaN or infinity ({_some(odd)})"]


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters and buffers by name."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _finite(value: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    plain = value.detach()
    if plain.is_floating_point() and plain.element_size() == 1:
        plain = plain.float()  # eight bits have no such test
    return bool(torch.isfinite(plain).all())


def _tied(
    model: nn.Module, found: Mapping[str, Tensor], needed: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return tensors that a file holds once, under another of the names that the network has."""
    names: dict[int, list[str]] = {}
    for name, value in _named_tensors(model):
        names.setdefault(id(value), []).append(name)
    return {
        name: next(found[other] for other in group if other in found)
        for group in names.values()
        for name in group
        if name in needed and name not in found and any(other in found for other in group)
    }


class _Fit(NamedTuple):
    """How the names in a file become those of a network."""

    tensors: dict[str, Tensor]
    """By the network's names."""
    prefix: str
    """Of the names in the file, without wrappers; the others are left out."""
    within: str
    """Part of the network that the tensors are for; the rest of it keeps its own values."""


def _fit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], shown: str) -> _Fit:
    """Return the way to read a file's names under which most tensors fit the network.

    Segments that wrappers add, ``module`` and ``_orig_mod``, are dropped wherever they stand. Then
    the tensors of one prefix, for which frameworks keep other networks and states beside, are those
    of the network or of a part of it, such as the one behind a normalisation.
    """
    plain = {_without_wrappers(key): value for key, value in tensors.items()}
    if len(plain) < len(tensors) or tensors.keys() <= wanted.keys():
        return _Fit(dict(tensors), "", "")
    bare = {_without_wrappers(key): key for key in wanted}
    best, most = _Fit(dict(tensors), "", ""), 0
    equals: set[str] = set()
    for prefix in _prefixes(plain):
        inner = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
        for within in _prefixes(bare):
            named = {bare.get(within + key, within + key): value for key, value in inner.items()}
            fits = sum(key in wanted and wanted[key].shape == v.shape for key, v in named.items())
            if fits > most:
                best, most, equals = _Fit(named, prefix, within), fits, {prefix}
            elif fits == most > 0 and prefix.count(".") == best.prefix.count("."):
                equals.add(prefix)
    if len(equals) > 1:
        words = " and ".join(f"'{prefix[:-1]}'" for prefix in sorted(equals))
        raise UserError(
            f"{shown} holds several networks that fit, under {words}: choose one of them with "
            "--weights-key."
        )
    return best


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the prefixes of names that end with a dot, the shortest, which is empty, first."""
    found = {""}
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), DEEPEST))}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _misfit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Return how weights differ from those of the network, None if they do not."""
    missing = [key for key in wanted if key not in found and not key.endswith(COUNTERS)]
    unexpected = [key for key in found if key not in wanted]
    common = [key for key in wanted if key in found]
    shapes = [key for key in common if found[key].shape != wanted[key].shape]
    kinds = [key for key in common if _kind(found[key]) != _kind(wanted[key])]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {len(wanted)} tensors are missing: {_some(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} are not its own: {_some(unexpected)}")
    if shapes:
        words = [
            f"{key} {tuple(found[key].shape)} where {tuple(wanted[key].shape)} is needed"
            for key in shapes[:SHOWN]
        ]
        parts.append(f"{len(shapes)} have another shape: {_some(words, len(shapes))}")
    if kinds and not parts:
        first = kinds[0]
        parts.append(
            f"{len(kinds)} hold another kind of numbers: {one_line(first)} is "
            f"{_word(found[first])} where {_word(wanted[first])} is needed"
        )
    return "; ".join(parts) or None


def _kind(tensor: Tensor) -> str:
    """Return the kind of numbers of a tensor; within one, a copy keeps their meaning."""
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else "whole"


def _word(tensor: Tensor) -> str:
    """Return a tensor's dtype in words."""
    return str(tensor.dtype).removeprefix("torch.")


def _conversions(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return in words which numbers are stored in another precision than they are used in."""
    pairs = Counter(
        (_word(value), _word(wanted[key]))
        for key, value in found.items()
        if value.dtype != wanted[key].dtype and _kind(value) != "whole"
    )
    return [
        f"{count} tensors are stored as {stored} and used as {used}"
        for (stored, used), count in sorted(pairs.items())
    ]


def _some(names: Sequence[str], count: int | None = None) -> str:
    """Return the first few of so many names in words."""
    count = len(names) if count is None else count
    shown = ", ".join(one_line(name, 100) for name in names[:SHOWN])
    return shown if count <= SHOWN else f"{shown} and {count - SHOWN} more"
