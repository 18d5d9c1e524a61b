"""Loads the weights of a checkpoint into a module that may name them differently. It knows nothing of files.

torch is imported when weights are loaded, so that everything else works where it is not installed.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predboard.errors import InputError, reading
from predboard.formatting import plural

if TYPE_CHECKING:
    import torch

EMA_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "ema")
"""Names under which checkpoints hold the exponential moving average of the weights."""
_PREFIXES = ("module.", "model.", "net.")
"""Usual prefixes of the names of a model's weights in a checkpoint that holds other modules too."""
_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""Parts that torch.compile, FSDP and activation checkpointing add to names."""
_COUNTERS = ("n_averaged", "initted", "step", "steps")
"""Counters of wrappers that average weights; no layer has such a name."""
_UNNEEDED = "num_batches_tracked"
"""Counters that checkpoints older than torch 0.4.1 lack, without effect in eval mode."""
_NOT_OF_THE_MODEL = re.compile(
    r"(^|\.)(total_ops|total_params)$|^(model\.|module\.)?(criterion|criteria|loss|loss_\w+|\w+_loss|\w*metrics?)\."
)
"""Names of tensors that training leaves in a checkpoint: counts of thop, weights of losses, states of metrics."""


def match_names(weights: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, Any]") -> "dict[str, torch.Tensor]":
    """Return the weights under the names that a module wants, as far as that is possible.

    What wrappers add to names is removed, and so is a prefix under which all wanted names are there: what has another
    prefix belongs to other modules. Left out as well are averages of weights, counters of wrappers, and what training
    leaves behind that no model has: counts of operations, weights of losses, states of metrics.
    """
    plain = {_WRAPPERS.sub("", f".{name}").removeprefix("."): name for name in wanted}
    if plain and all(name.startswith("module.") for name in plain):  # the module itself is wrapped
        plain = {name.removeprefix("module."): whole for name, whole in plain.items()}
    unwrapped = {k if k in wanted else _WRAPPERS.sub("", f".{k}").removeprefix("."): v for k, v in weights.items()}
    own = {k: v for k, v in unwrapped.items() if k in plain or not _is_foreign(k)}
    prefix = _find_prefix(own, plain)
    inside = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
    return {plain.get(name, name): tensor for name, tensor in inside.items()}


def _is_foreign(name: str) -> bool:
    averaged = name.startswith(tuple(f"{key}." for key in EMA_KEYS))
    return averaged or name in _COUNTERS or _NOT_OF_THE_MODEL.search(name) is not None


def _find_prefix(names: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the prefix under which all wanted names are there, else one that all names share, else ""."""
    needed = [name for name in wanted if not name.endswith(_UNNEEDED)]
    some = next(iter(needed), "")
    ends = [name.removesuffix(some) for name in names if name.endswith(some)]
    prefixes = [end for end in ends if f".{end}".endswith(".") and all(end + name in names for name in needed)]
    if len(prefixes) == 1 or "" in prefixes:
        return "" if "" in prefixes else prefixes[0]
    usual = (prefix for prefix in _PREFIXES if prefix in prefixes or all(name.startswith(prefix) for name in names))
    return next(usual, "")


def count_outputs(weights: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, Any]") -> int | None:
    """Return the number of outputs that weights have, if it differs from the module's.

    Args:
        weights: the checkpoint's.
        wanted: the module's state dict. The last weight that matches in all but its first dimension is the head.

    -> None if every weight matches as it is.
    """
    matched = match_names(weights, wanted)
    for name in reversed(list(wanted)):
        theirs, ours = getattr(matched.get(name), "shape", None), getattr(wanted[name], "shape", None)
        if theirs and ours and name.endswith(".weight") and theirs[1:] == ours[1:] != () and theirs[0] != ours[0]:
            return int(theirs[0])
    return None


def load(
    module: "torch.nn.Module",
    weights: "Mapping[str, torch.Tensor]",
    file: Path,
    log: Callable[[str], None] = lambda _: None,
) -> None:
    """Load the weights of a file into a module; `log` gets a line if tensors of the file are left out.

    Raises InputError if they belong to another model; the module is unchanged then.
    """
    wanted = module.state_dict()
    matched = match_names(weights, wanted)
    extra = [k for k in matched if k not in wanted]
    missing = [k for k in wanted if k not in matched and not k.endswith(_UNNEEDED)]
    shapes, types = [], []
    with reading(file):
        for name in [k for k in wanted if k in matched and hasattr(wanted[k], "shape")]:
            theirs, ours = matched[name], wanted[name]
            if theirs.shape != ours.shape:
                shapes.append(f"{name} is {list(theirs.shape)}, the model has {list(ours.shape)}")
            elif (kind := _kind(theirs)) not in ("floats", _kind(ours)):
                types.append(f"{name} is {kind}, the model has {_kind(ours)}")
    if missing or extra or shapes or types:
        wrong = [f"missing {list_some(missing)}"] * bool(missing) + [f"unknown {list_some(extra)}"] * bool(extra)
        wrong += [f"different shape: {list_some(shapes)}"] * bool(shapes)
        wrong += [f"different type: {list_some(types)}"] * bool(types)
        raise InputError(f"{file} belongs to another model: {'; '.join(wrong)}")
    with reading(f"{file} as weights of this model"):
        module.load_state_dict(matched, strict=False)
    used = set(map(id, matched.values()))
    if left_out := [k for k, tensor in weights.items() if id(tensor) not in used and k not in _COUNTERS]:
        log(f"{file.name} also holds {plural(len(left_out), 'tensor')} that the model lacks: {list_some(left_out)}")


def _kind(tensor: "torch.Tensor") -> str:
    """Return what a tensor holds, in words that are the same for tensors of which one can stand for the other."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "without values" if tensor.is_meta else "quantized" if tensor.is_quantized else "sparse"
    return "floats" if tensor.is_floating_point() else "complex numbers" if tensor.is_complex() else "integers"


def digest_weights(module: "torch.nn.Module") -> str:
    """Return 16 hexadecimal digits that change with any parameter or buffer, whatever file they came from."""
    import torch

    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            hashed.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return hashed.hexdigest()


def list_some(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
