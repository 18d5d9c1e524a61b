"""torchvision:, timm: and hf: names -> how to make the module, and what its library says of it. Knows no data or flags.

Each library is imported when a model of it is asked for. Preprocessing is taken over as numbers, where these do exactly
what the library does on a handful of pictures of odd sizes; otherwise the library's own function is called.
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
from predboard.images import decode
from predboard.images.preprocessing import Recipe
from predboard.predictions.table import digest_records
from predboard.user_code import UserObject

if TYPE_CHECKING:
    import torch

HUB_PREFIXES = ("torchvision:", "timm:", "hf:")
_PACKAGES = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers."""


@dataclass(frozen=True)
class HubModel:
    """A model of a library."""

    make: "Callable[..., torch.nn.Module]"
    """Takes `pretrained` (bool), `outputs` (int or None) and the user's own arguments."""
    recipe: Recipe | None
    """None if the library does not say."""
    sized: str
    """The user's argument that says how many outputs there are."""


def open_hub_model(spec: str, args: Mapping[str, Any]) -> HubModel:
    """The model named torchvision:NAME, timm:NAME or hf:NAME_OR_FOLDER.

    Raises InputError if the library is not installed, does not know the name, or the model is not for one label of a
    list.
    """
    kind, _, name = spec.partition(":")
    package = _PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{spec} needs {package}, which is not installed: pip install 'predboard[{kind}]'")
    return {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}[kind](name, args)


def display_name(spec: str) -> str:
    """A model's name without the place of its folder, as predictions keep it.

    >>> display_name("timm:resnet18")
    'timm:resnet18'
    """
    kind, _, name = spec.partition(":")
    return f"{kind}:{Path(name).resolve().name}" if kind == "hf" and Path(name).is_dir() else spec


def package_versions(spec: str) -> dict[str, str]:
    """Version of the library that a model is of, by its name; empty for a model of none."""
    package = _PACKAGES.get(spec.partition(":")[0], "")
    return {package: importlib.metadata.version(package)} if spec.startswith(HUB_PREFIXES) else {}


def _near(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, 3, 0.4)
    return f"; there are {', '.join(found)}, …" if found else ""


def _pretrained(spec: str, load: "Callable[[], torch.nn.Module]") -> "torch.nn.Module":
    """The library's own weights. Raises InputError if they cannot be had."""
    try:
        return load()
    except (Exception, SystemExit) as error:  # of the network, of a hub, of a cache: there is no closed set
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the pretrained weights of {spec} cannot be had ({type(error).__name__}: {first_line(error)[:200]}): give "
            "--checkpoint FILE, or take random ones by --model-args pretrained=False"
        ) from error


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names, those that stand for several outputs with their index."""
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))


# --- torchvision ---


def _torchvision(name: str, args: Mapping[str, Any]) -> HubModel:
    from torchvision import models as zoo

    names = zoo.list_models(module=zoo)
    if name not in names:
        raise InputError(f"torchvision has no classifier {name!r}{_near(name, names)}")
    known = zoo.get_model_weights(name)
    wanted = args.get("weights")
    if wanted is not None and wanted not in known.__members__:
        raise InputError(f"torchvision:{name} has no weights {wanted!r}; it has: {', '.join(known.__members__)}")
    weights = known[wanted] if wanted else getattr(known, "DEFAULT", None)
    recipe = None
    if weights is not None:
        preset = weights.transforms()
        recipe = _checked(
            Recipe(
                f"torchvision {weights}",
                _one(preset.resize_size),
                _one(preset.crop_size),
                preset.interpolation.value,
                tuple(preset.mean),
                tuple(preset.std),
                classes=_distinct(weights.meta.get("categories", ())),
            ),
            _Transform(preset),
            repr(preset),
        )
    return HubModel(functools.partial(_make_torchvision, name, weights), recipe, "num_classes")


def _one(size: Any) -> Any:
    return size if isinstance(size, int) else size[0] if len(size) == 1 else tuple(size)


def _make_torchvision(
    name: str, own: Any, *, pretrained: bool, outputs: int | None, weights: str | None = None, **args: Any
) -> "torch.nn.Module":
    from torchvision import models as zoo

    del weights  # `own` is these
    sized = {} if outputs is None else {"num_classes": outputs}
    if name in ("googlenet", "inception_v3") and not pretrained:
        sized["init_weights"] = False  # the other way takes a minute and is overwritten
    if pretrained and own is not None:
        return _pretrained(f"torchvision:{name}", lambda: zoo.get_model(name, weights=own, **sized, **args))
    made: torch.nn.Module = zoo.get_model(name, weights=None, **{**sized, **args})
    return made


# --- timm ---


def _timm(name: str, args: Mapping[str, Any]) -> HubModel:
    import timm
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config

    sizes = {key: args[key] for key in ("img_size", "in_chans") if key in args}
    if ":" in name:  # hf-hub:… and local-dir:… bring their configuration with them
        made: Any = _pretrained(f"timm:{name}", lambda: timm.create_model(name, pretrained=False))
        cfg = made.pretrained_cfg
    else:
        if not timm.is_model(name):
            raise InputError(f"timm has no model {name!r}{_near(name, timm.list_models())}")
        try:
            cfg = timm.get_pretrained_cfg(name).to_dict()
        except RuntimeError as error:  # an unknown tag, after the dot
            tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
            raise InputError(f"timm: {first_line(error)}{_near(name, tags)}") from error
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
        _checked(recipe, _Transform(create_transform(**data, is_training=False)), repr(sorted(data.items()))),
        "num_classes",
    )


def _make_timm(name: str, *, pretrained: bool, outputs: int | None, **args: Any) -> "torch.nn.Module":
    import timm

    sized = {} if outputs is None else {"num_classes": outputs}
    if pretrained:
        return _pretrained(f"timm:{name}", lambda: timm.create_model(name, pretrained=True, **sized, **args))
    made: torch.nn.Module = timm.create_model(name, pretrained=False, **{**sized, **args})
    return made


# --- transformers ---


def _hugging_face(name: str, _: Mapping[str, Any]) -> HubModel:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"hf:{name} is no folder with a config.json that transformers knows, and cannot be had from the hub: "
            f"{first_line(error)[:200]}"
        ) from error
    if config.problem_type == "multi_label_classification":
        raise InputError(
            f"hf:{name} is trained to name several labels for one image (problem_type {config.problem_type}); expected "
            "one label of a fixed list"
        )
    names = [str(config.id2label.get(i, i)) for i in range(config.num_labels)]
    generic = all(re.fullmatch(r"LABEL_\d+", label) for label in names)
    recipe = _hugging_face_recipe(name, () if generic else _distinct(names))
    return HubModel(functools.partial(_make_hugging_face, name), recipe, "num_labels")


def _hugging_face_recipe(name: str, classes: tuple[str, ...]) -> Recipe:
    from transformers import AutoImageProcessor

    try:
        # Pillow's, because it is what the processors were before they had a backend, and what our own resize equals.
        processor = AutoImageProcessor.from_pretrained(name, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        return Recipe(f"nowhere: hf:{name} has no image processor ({first_line(error)[:80]})", classes=classes)
    record = processor.to_dict()
    kind = str(record.get("image_processor_type", type(processor).__name__))
    own = _Processor(processor)
    size = dict(record.get("size") or {}) if record.get("do_resize") else {}
    short, exact = size.get("shortest_edge"), (size.get("height"), size.get("width"))
    cropped = dict(record.get("crop_size") or {}) if record.get("do_center_crop") else {}
    crop: Any = cropped.get("height")
    resize: Any = short if short else exact if None not in exact else None
    if short and record.get("crop_pct"):  # as ConvNeXT's processor does it
        resize, crop = (int(short / record["crop_pct"]), short) if short < 384 else ((short, short), None)
    scale = 255 * (record.get("rescale_factor") or 1 / 255) if record.get("do_rescale") else 255.0
    normal = bool(record.get("do_normalize"))
    mean, std = (record["image_mean"], record["image_std"]) if normal else ([0.0], [1.0])
    recipe = Recipe(
        f"transformers {kind} of {display_name(f'hf:{name}')}",
        resize,
        crop,
        _FILTERS.get(int(record.get("resample") or 0), "bilinear"),  # type: ignore[arg-type]  # one of its values
        tuple(value / scale for value in mean),
        tuple(value / scale for value in std),
        "floor",
        classes=classes,
    )
    return _checked(recipe, own, record)


def _make_hugging_face(name: str, *, pretrained: bool, outputs: int | None, **args: Any) -> "torch.nn.Module":
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    sized = {} if outputs is None else {"num_labels": outputs}
    if not pretrained:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **{**sized, **args})
        made: torch.nn.Module = AutoModelForImageClassification.from_config(config)
        return made.float()

    def load() -> "torch.nn.Module":
        module, info = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True, trust_remote_code=False, dtype=torch.float32, **args
        )
        if missing := [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]:
            raise InputError(
                f"hf:{name} has no trained {', '.join(sorted(missing)[:3])}: its head would be random; name "
                "a folder of a model that was trained to classify, or its weights by --checkpoint"
            )
        loaded: torch.nn.Module = module
        return loaded

    return _pretrained(f"hf:{name}", load)


# --- whether numbers say the same as a library's own function ---


@dataclass(frozen=True)
class _Transform:
    """A torchvision transform, for a Pillow picture."""

    transform: Any

    def __call__(self, picture: Image.Image) -> NDArray[np.float32]:
        """[channels, height, width] float32."""
        return np.asarray(self.transform(picture), np.float32)


@dataclass(frozen=True)
class _Processor:
    """A transformers image processor, for a Pillow picture."""

    processor: Any

    def __call__(self, picture: Image.Image) -> NDArray[np.float32]:
        """[channels, height, width] float32."""
        return np.asarray(self.processor(images=picture, return_tensors="np")["pixel_values"][0], np.float32)


def _samples() -> list[Image.Image]:
    """Noise, of sizes whose crop's corner falls on every remainder, wide and tall."""
    random = np.random.default_rng(0)
    sizes = [(311 + i, 263) for i in range(4)] + [(263, 409 + i) for i in range(4)] + [(41, 37)]
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]


def _ours(picture: Image.Image, recipe: Recipe) -> NDArray[np.float32]:
    """[channels, height, width] float32, as `forward.Prepare` makes it."""
    shape = decode.DecodeOptions(recipe.resize, recipe.crop, recipe.interpolation, corner=recipe.corner)
    pixels = decode.to_array(decode.resize_and_crop(picture, shape)).astype(np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in (recipe.mean, recipe.std))
    ours: NDArray[np.float32] = np.moveaxis((pixels - mean) / std, 2, 0)
    return ours


def _checked(recipe: Recipe, own: Callable[[Image.Image], NDArray[np.float32]], record: Any) -> Recipe:
    """The recipe, if it gives the same as the library's own function; else that function.

    Args:
        recipe: what the numbers of the library's configuration come to.
        own: the library's own function.
        record: its configuration, so that another one is another function.
    """
    samples = _samples()
    theirs = [own(picture) for picture in samples]
    if all(
        a.shape == b.shape and np.allclose(a, b, 1e-5, 1e-5)
        for a, b in zip(theirs, (_ours(picture, recipe) for picture in samples), strict=True)
    ):
        return recipe
    named = UserObject(own, recipe.source, digest_records({"own": record}), Path())
    return Recipe(recipe.source, own=named, classes=recipe.classes, aliases=recipe.aliases)
