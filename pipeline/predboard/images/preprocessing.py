"""What a library says of its model's pictures and classes, and what is done to a picture in the end. Knows no model.

Flags come first, then the library's recipe, then pictures as they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from predboard.config import InferConfig, Interpolation, Side
from predboard.errors import InputError
from predboard.images.decode import DecodeOptions
from predboard.images.sources import Manifest
from predboard.user_code import UserObject

FIELDS = ("resize", "crop", "interpolation", "mean", "std")
"""What a recipe says, and a flag of the same name changes."""


@dataclass(frozen=True)
class Recipe:
    """What a model's own library says of it."""

    source: str
    """Where this comes from, in words."""
    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    corner: Literal["round", "floor"] = "round"
    """How the crop's corner is rounded."""
    own: UserObject | None = None
    """The library's own function of a Pillow picture, where the fields above would not give the same; it gives floats
    [channels, height, width], ready for the model."""
    classes: tuple[str, ...] = ()
    """Names of the outputs, where the library knows them."""
    aliases: tuple[str, ...] = ()
    """Other names of the same, ImageNet's synsets for example."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before the model sees it."""

    shape: DecodeOptions
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    """Where it comes from, in words."""
    function: UserObject | None = None
    """A library's own, called before the shape applies."""


def resolve(config: InferConfig, recipe: Recipe | None) -> Preprocessing:
    """What flags and a library's recipe come to.

    Raises InputError for flags that do not go with it.
    """
    given = [name for name in FIELDS if getattr(config, name) is not None]
    flags = ", ".join(f"--{name}" for name in given)
    if recipe is None or config.transform is not None or len(given) == len(FIELDS):
        recipe, source = None, "flags"
    elif recipe.own is not None and given:
        raise InputError(
            f"{flags} cannot be combined with {recipe.source}, which the flags cannot express: give all of "
            f"{', '.join(f'--{name}' for name in FIELDS)}, or none"
        )
    elif recipe.own is not None:
        shape = DecodeOptions(channels=config.channels, exif=config.exif)
        return Preprocessing(shape, (0.0,), (1.0,), recipe.source, recipe.own)
    else:
        source = f"{recipe.source} and {flags}" if given else recipe.source
    base = recipe or Recipe("")
    resize = _side(config.resize, base.resize)
    crop = _side(config.crop, base.crop)
    assert not isinstance(crop, tuple)  # noqa: S101  the type of --crop has no HxW
    if recipe is not None and given and crop is not None and resize is not None and crop > _shortest(resize):
        raise InputError(
            f"--resize {_shortest(resize)} with --crop {crop} would surround pictures with black, and one of them is "
            f"from {recipe.source}: give both (none turns one off)"
        )
    interpolation = config.interpolation or base.interpolation
    only_crop = interpolation == "bilinear" and None not in (resize, crop) and not config.exact_resize
    shape = DecodeOptions(resize, crop, interpolation, config.channels, config.exif, only_crop, base.corner)
    return Preprocessing(shape, config.mean or base.mean, config.std or base.std, source)


def describe_differences(transform: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """What was done to pictures, by the record of it, that the library does otherwise, in words."""
    if transform.get("floats"):
        return [] if recipe.own is not None and transform.get("function") == recipe.own.name else ["by your own code"]
    if recipe.own is not None:
        return ["by flags"]
    found = []
    for name in FIELDS:
        done, own = transform[name], getattr(recipe, name)
        done, own = (tuple(v) if isinstance(v, list) else v for v in (done, own))
        if name in ("mean", "std"):
            done, own = (v * 3 if len(v) == 1 else v for v in (done, own))
        if done != own and not (name == "interpolation" and transform["resize"] is None):
            found.append(f"{name} {_words(done)}, not {_words(own)}")
    return found


def _words(value: Any) -> str:
    return " ".join(f"{v:.4g}" for v in value) if isinstance(value, tuple) else str(value).lower()


def _side(flag: Side | tuple[int, int] | None, own: Any) -> Any:
    return own if flag is None else None if flag == "none" else flag


def _shortest(resize: int | tuple[int, int]) -> int:
    return min(resize) if isinstance(resize, tuple) else resize


def match_class_names(manifest: Manifest, recipe: Recipe | None, outputs: int) -> tuple[Manifest, str]:
    """The manifest with class names in the order of the outputs, as far as the library knows that order.

    Names of the data are found among the library's (or their aliases) without regard to case, spaces and underscores;
    some of them in any order are enough. Where the data has no names, labels are taken for indices of outputs.

    Args:
        manifest: with the names of folders, or of `--classes`.
        recipe: of the model's library.
        outputs: of the model.

    -> the manifest, and a line for a person, empty if there is nothing to say.
    """
    if recipe is None or len(recipe.classes) != outputs:
        return manifest, ""
    said = f"class names from {recipe.source}"
    if not manifest.classes:
        return manifest.named(recipe.classes), said
    for known in (recipe.classes, recipe.aliases):
        place = {_folded(name): i for i, name in enumerate(known)}
        found = [place.get(_folded(name), -1) for name in manifest.classes]
        if len(place) == outputs and -1 not in found and len(set(found)) == len(found):
            if manifest.place is not None and found != list(range(outputs)):  # its items say their own index
                return manifest, f"warning: the dataset has its classes in another order than {recipe.source}"
            spelled = tuple(recipe.classes[i] for i in found)
            return replace(manifest, classes=spelled).named(recipe.classes), said
    if len(manifest.classes) != outputs:
        return manifest, ""
    own = ", ".join(recipe.classes[:3])
    return manifest, f"class names are the data's, in their order; {recipe.source} has others: {own}, …"


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()
