"""Opens models of libraries: torchvision:, timm: and hf: names -> a module, and what the library recommends for it.

It knows nothing of data or of flags. Each library is imported only when one of its models is asked for. Its
preprocessing is taken over as numbers where these give just what the library gives, on a handful of pictures of odd
sizes; otherwise the library's own function is called.
"""

import difflib
import functools
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from predboard.errors import InputError, first_line
from predboard.garbage import importing
from predboard.images.decode import DecodeOptions, resize_and_crop, to_array
from predboard.images.preprocessing import Recipe
from predboard.invocation import install_command
from predboard.predictions.schema import SINGLE_LABEL, digest_records
from predboard.user_code import UserObject

if TYPE_CHECKING:
    import torch

HUB_PREFIXES = ("torchvision:", "timm:", "hf:")
_PACKAGES = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Names of Pillow's numbers."""

_MESSAGE_CHARACTERS = 200
"""Characters of a library's own error message that are shown."""


@dataclass(frozen=True)
class HubModel:
    """Describes a model of a library."""

    make: "Callable[..., torch.nn.Module]"
    """Makes the module from `pretrained` (bool), `outputs` (int or None) and the user's own arguments."""
    recipe: Recipe | None
    """Preprocessing and class names; None if the library does not say."""
    outputs_argument: str
    """The user's argument for the number of outputs."""


def open_hub_model(spec: str, args: Mapping[str, Any], task: str = SINGLE_LABEL) -> HubModel:
    """Return the model named torchvision:NAME, timm:NAME or hf:NAME_OR_FOLDER.

    Args:
        spec: as the user gave it.
        args: --model-args.
        task: whether an image has one label of a fixed list, or several.

    Raises InputError if the library is not installed, does not know the name, or says that the model is of another
    task.
    """
    kind, _, name = spec.partition(":")
    package = _PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{spec} needs {package}, which is not installed: {install_command(extra=kind)}")
    with importing():
        if kind == "hf":
            return _open_hugging_face(name, args, task)
        return {"torchvision": _open_torchvision, "timm": _open_timm}[kind](name, args)


def display_name(spec: str) -> str:
    """Return a model's name as predictions store it: without the path to its folder.

    >>> display_name("timm:resnet18")
    'timm:resnet18'
    """
    kind, _, name = spec.partition(":")
    return f"{kind}:{Path(name).resolve().name}" if kind == "hf" and Path(name).is_dir() else spec


def package_versions(spec: str) -> dict[str, str]:
    """Return the package and version of the library that a model's name belongs to; empty for any other model."""
    package = _PACKAGES.get(spec.partition(":")[0], "")
    return {package: importlib.metadata.version(package)} if spec.startswith(HUB_PREFIXES) else {}


def _suggest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 3, 0.4)
    return f"; similar names: {', '.join(near)}" if near else ""


def _load_pretrained(spec: str, load: "Callable[[], torch.nn.Module]") -> "torch.nn.Module":
    """Return the module with the library's own weights. Raises InputError if they cannot be loaded."""
    try:
        return load()
    except (Exception, SystemExit) as error:  # networks, hubs and caches may raise anything
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot load the pretrained weights of {spec} ({type(error).__name__}: "
            f"{first_line(error)[:_MESSAGE_CHARACTERS]}): give --checkpoint FILE, or use random weights by "
            "--model-args pretrained=False"
        ) from error


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of outputs; a name that several outputs share is followed by the output's index."""
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))


# --- torchvision ---


def _open_torchvision(name: str, args: Mapping[str, Any]) -> HubModel:
    from torchvision import models as zoo

    names = zoo.list_models(module=zoo)
    if name not in names:
        raise InputError(f"torchvision has no classifier {name!r}{_suggest(name, names)}")
    available = zoo.get_model_weights(name)
    asked = args.get("weights")
    if asked is not None and asked not in available.__members__:
        raise InputError(f"torchvision:{name} has no weights {asked!r}; it has: {', '.join(available.__members__)}")
    weights = available[asked] if asked else getattr(available, "DEFAULT", None)
    recipe = None
    if weights is not None:
        preset = weights.transforms()
        recipe = _verify(
            Recipe(
                f"torchvision {weights}",
                _single(preset.resize_size),
                _single(preset.crop_size),
                preset.interpolation.value,
                tuple(preset.mean),
                tuple(preset.std),
                classes=_distinct(weights.meta.get("categories", ())),
            ),
            _TorchvisionFunction(preset),
            repr(preset),
        )
    return HubModel(functools.partial(_make_torchvision, name, weights), recipe, "num_classes")


def _single(size: Any) -> Any:
    return size if isinstance(size, int) else size[0] if len(size) == 1 else tuple(size)


def _make_torchvision(
    name: str, chosen: Any, *, pretrained: bool, outputs: int | None, weights: str | None = None, **args: Any
) -> "torch.nn.Module":
    from torchvision import models as zoo

    del weights  # the user's name for `chosen`
    sized = {} if outputs is None else {"num_classes": outputs}
    if name in ("googlenet", "inception_v3") and not pretrained:
        sized["init_weights"] = False  # True takes a minute, and is overwritten by a checkpoint
    if pretrained and chosen is not None:
        return _load_pretrained(f"torchvision:{name}", lambda: zoo.get_model(name, weights=chosen, **sized, **args))
    made: torch.nn.Module = zoo.get_model(name, weights=None, **{**sized, **args})
    return made


# --- timm ---


def _open_timm(name: str, args: Mapping[str, Any]) -> HubModel:
    import timm
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config

    sizes = {key: args[key] for key in ("img_size", "in_chans") if key in args}
    if ":" in name:  # hf-hub:… and local-dir:… have their own configuration
        made: Any = _load_pretrained(f"timm:{name}", lambda: timm.create_model(name, pretrained=False))
        cfg = made.pretrained_cfg
    else:
        if not timm.is_model(name):
            raise InputError(f"timm has no model {name!r}{_suggest(name, timm.list_models())}")
        try:
            cfg = timm.get_pretrained_cfg(name).to_dict()
        except RuntimeError as error:  # the part after the dot is an unknown tag
            tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
            raise InputError(f"timm: {first_line(error)}{_suggest(name, tags)}") from error
    data = resolve_data_config(sizes, pretrained_cfg=cfg)
    _, height, width = data["input_size"]
    scaled = math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"])
    subset = infer_imagenet_subset(cfg)
    info = ImageNetInfo(subset) if subset else None
    names = cfg.get("label_names") or (info.label_descriptions() if info else ())
    tag = f".{cfg['tag']}" if cfg.get("tag") and "." not in name else ""
    recipe = Recipe(
        f"timm {name}{tag}",
        scaled if data["crop_mode"] == "squash" else scaled[0],
        height,
        data["interpolation"],
        tuple(data["mean"]),
        tuple(data["std"]),
        classes=_distinct(list(names)),
        aliases=tuple(info.label_names()) if info else (),
    )
    return HubModel(
        functools.partial(_make_timm, name),
        _verify(recipe, _TorchvisionFunction(create_transform(**data, is_training=False)), repr(sorted(data.items()))),
        "num_classes",
    )


def _make_timm(name: str, *, pretrained: bool, outputs: int | None, **args: Any) -> "torch.nn.Module":
    import timm

    sized = {} if outputs is None else {"num_classes": outputs}
    if pretrained:
        return _load_pretrained(f"timm:{name}", lambda: timm.create_model(name, pretrained=True, **sized, **args))
    made: torch.nn.Module = timm.create_model(name, pretrained=False, **{**sized, **args})
    return made


# --- transformers ---


def _open_hugging_face(name: str, args: Mapping[str, Any], task: str) -> HubModel:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"hf:{name} is neither a folder with a config.json that transformers knows nor a model on the hub: "
            f"{first_line(error)[:_MESSAGE_CHARACTERS]}"
        ) from error
    outputs, problem = args.get("num_labels", config.num_labels), args.get("problem_type", config.problem_type)
    several = problem == "multi_label_classification"
    if several and task == SINGLE_LABEL and outputs != 1:  # with 1 it is one of two classes
        raise InputError(
            f"hf:{name} is trained to give an image several labels (problem_type {problem}); expected one "
            "label of a fixed list: --task multi-label takes all of them"
        )
    if problem == "single_label_classification" and task != SINGLE_LABEL:
        raise InputError(
            f"hf:{name} is trained to give an image one label (problem_type {problem}), by a softmax over all of "
            f"them; expected a model with a sigmoid for each: leave --task {task} out"
        )
    if outputs == 1 and problem in (None, "regression"):
        raise InputError(
            f"hf:{name} has num_labels 1 and problem_type {problem}, which transformers trains as regression (by the "
            "mean squared error); expected a classifier, with a label for each class"
        )
    names = [str(config.id2label.get(i, i)) for i in range(config.num_labels)]
    generic = all(re.fullmatch(r"LABEL_\d+", label) for label in names)
    recipe = _hugging_face_recipe(name, () if generic else _distinct(names))
    return HubModel(functools.partial(_make_hugging_face, name), recipe, "num_labels")


def _hugging_face_recipe(name: str, classes: tuple[str, ...]) -> Recipe:
    from transformers import AutoImageProcessor

    try:
        # Pillow is what processors used before they had backends, and what `resize_and_crop` agrees with.
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        return Recipe(f"nowhere: hf:{name} has no image processor ({first_line(error)[:80]})", classes=classes)
    record = processor.to_dict()
    kind = str(record.get("image_processor_type", type(processor).__name__))
    size = dict(record.get("size") or {}) if record.get("do_resize") else {}
    short, exact = size.get("shortest_edge"), (size.get("height"), size.get("width"))
    cropped = dict(record.get("crop_size") or {}) if record.get("do_center_crop") else {}
    crop: Any = cropped.get("height")
    resize: Any = short if short else exact if None not in exact else None
    if short and record.get("crop_pct"):  # as in ConvNeXT's processor
        resize, crop = (int(short / record["crop_pct"]), short) if short < 384 else ((short, short), None)
    scale = 255 * (record.get("rescale_factor") or 1 / 255) if record.get("do_rescale") else 255.0
    normal = bool(record.get("do_normalize"))
    mean, std = (record["image_mean"], record["image_std"]) if normal else ([0.0], [1.0])
    recipe = Recipe(
        f"transformers {kind} of {display_name(f'hf:{name}')}",
        resize,
        crop,
        _FILTERS.get(int(record.get("resample") or 0), "bilinear"),  # type: ignore[arg-type]  # always one of its values
        tuple(value / scale for value in mean),
        tuple(value / scale for value in std),
        "floor",
        classes=classes,
    )
    return _verify(recipe, _TransformersFunction(processor), record)


def _make_hugging_face(name: str, *, pretrained: bool, outputs: int | None, **args: Any) -> "torch.nn.Module":
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    sized = {} if outputs is None else {"num_labels": outputs}
    if not pretrained:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **{**sized, **args})
        made: torch.nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        return made.float()

    def load() -> "torch.nn.Module":
        module, info = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True, trust_remote_code=False, dtype=torch.float32, **args
        )
        if missing := [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]:
            raise InputError(
                f"hf:{name} has no trained {', '.join(sorted(missing)[:3])}, so its head would be random: name a model "
                "that was trained to classify, or its weights by --checkpoint"
            )
        loaded: torch.nn.Module = module
        return loaded

    return _load_pretrained(f"hf:{name}", load)


# --- does a recipe give the same as the library's own function? ---


@dataclass(frozen=True)
class _TorchvisionFunction:
    """A torchvision transform as a function of a Pillow picture."""

    transform: Any

    def __call__(self, picture: Image.Image) -> NDArray[np.float32]:
        """Return float32 [channels, height, width]."""
        return np.asarray(self.transform(picture), np.float32)


@dataclass(frozen=True)
class _TransformersFunction:
    """A transformers image processor as a function of a Pillow picture."""

    processor: Any

    def __call__(self, picture: Image.Image) -> NDArray[np.float32]:
        """Return float32 [channels, height, width]."""
        return np.asarray(self.processor(images=picture, return_tensors="np")["pixel_values"][0], np.float32)


def _sample_pictures() -> list[Image.Image]:
    """Return noise in sizes, wide and tall, for which the crop's corner leaves every remainder."""
    random = np.random.default_rng(0)
    sizes = [(311 + i, 263) for i in range(4)] + [(263, 409 + i) for i in range(4)] + [(41, 37)]
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def _apply_recipe(picture: Image.Image, recipe: Recipe) -> NDArray[np.float32]:
    """Return float32 [channels, height, width], as stage one feeds it to the model (`forward.Prepare`)."""
    options = DecodeOptions(recipe.resize, recipe.crop, recipe.interpolation, corner=recipe.corner)
    pixels = to_array(resize_and_crop(picture, options)).astype(np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in (recipe.mean, recipe.std))
    normalized: NDArray[np.float32] = np.moveaxis((pixels - mean) / std, 2, 0)
    return normalized


def _verify(recipe: Recipe, function: Callable[[Image.Image], NDArray[np.float32]], record: Any) -> Recipe:
    """Return the recipe if its numbers give what the library's own function gives, else one that calls the function.

    Args:
        recipe: the numbers in the library's configuration.
        function: the library's own function.
        record: the library's configuration, for the digest of the function.
    """
    samples = _sample_pictures()
    expected = [function(picture) for picture in samples]
    if all(
        a.shape == b.shape and np.allclose(a, b, 1e-5, 1e-5)
        for a, b in zip(expected, (_apply_recipe(picture, recipe) for picture in samples), strict=True)
    ):
        return recipe
    named = UserObject(function, recipe.source, digest_records({"own": record}), Path())
    return Recipe(recipe.source, function=named, classes=recipe.classes, aliases=recipe.aliases)
