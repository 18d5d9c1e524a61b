"""Decides what is done to an image before the model sees it: flags first, then the library's recipe, then nothing.

It knows nothing of models or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from predboard.config import Interpolation, PreprocessingConfig, SideLength
from predboard.errors import InputError
from predboard.images.decode import DecodeOptions
from predboard.user_code import UserObject

PREPROCESSING_FLAGS = ("resize", "crop", "interpolation", "mean", "std")
"""Fields of a recipe that a flag of the same name replaces."""


@dataclass(frozen=True)
class Recipe:
    """Holds what a model's own library recommends for it."""

    source: str
    """The library and the weights, in words."""
    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    corner: Literal["round", "floor"] = "round"
    """Rounding of the crop's corner."""
    function: UserObject | None = None
    """The library's own function of a Pillow picture, where the fields above would not give the same result; it returns
    floats [channels, height, width], ready for the model."""
    classes: tuple[str, ...] = ()
    """Names of the outputs, if the library knows them."""
    aliases: tuple[str, ...] = ()
    """Other names of the same outputs, for example ImageNet's synsets."""


@dataclass(frozen=True)
class Preprocessing:
    """Says what is done to an image before the model sees it."""

    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """Batches of uint8 become (x/255 - mean) / std, one number for each channel or for all."""
    source: str = ""
    """Source of the preprocessing, in words."""
    function: UserObject | None = None
    """The function that is called with the decoded picture, before it is resized and cropped."""
    function_of_library: bool = False
    """Whether it is the model library's and not the user's; only that one is called for a dataset's arrays too."""


def resolve(config: PreprocessingConfig, recipe: Recipe | None) -> Preprocessing:
    """Return the preprocessing that flags and the library's recipe amount to, without the user's own function.

    Raises InputError for flags that cannot be combined with the recipe.
    """
    given = [name for name in PREPROCESSING_FLAGS if getattr(config, name) is not None]
    flags = ", ".join(f"--{name}" for name in given)
    if recipe is None or config.transform is not None or len(given) == len(PREPROCESSING_FLAGS):
        recipe, source = None, "flags"
    elif recipe.function is not None and given:
        raise InputError(
            f"{flags} cannot be combined with {recipe.source}, which flags cannot express: give all of "
            f"{', '.join(f'--{name}' for name in PREPROCESSING_FLAGS)}, or none"
        )
    elif recipe.function is not None:
        decoding = DecodeOptions(channels=config.channels, exif=config.exif)
        return Preprocessing(decoding, source=recipe.source, function=recipe.function, function_of_library=True)
    else:
        source = f"{recipe.source} and {flags}" if given else recipe.source
    base = recipe or Recipe("")
    resize = _side(config.resize, base.resize)
    crop = _side(config.crop, base.crop)
    assert not isinstance(crop, tuple)  # noqa: S101  the type of --crop has no HxW
    if recipe is not None and given and crop is not None and resize is not None and crop > _shortest(resize):
        raise InputError(
            f"--resize {_shortest(resize)} with --crop {crop} would pad images with black, and one of the two comes "
            f"from {recipe.source}: give both (none turns one off)"
        )
    interpolation = config.interpolation or base.interpolation
    only_crop = interpolation == "bilinear" and None not in (resize, crop) and not config.exact_resize
    decoding = DecodeOptions(resize, crop, interpolation, config.channels, config.exif, only_crop, base.corner)
    return Preprocessing(decoding, config.mean or base.mean, config.std or base.std, source)


def describe_differences(transform: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return, in words, where the preprocessing of some predictions differs from the library's recipe.

    Args:
        transform: the record of the preprocessing in the predictions' footer.
        recipe: the library's.
    """
    if transform.get("floats"):
        same = recipe.function is not None and transform.get("function") == recipe.function.name
        return [] if same else ["by your own code"]
    if recipe.function is not None:
        return ["by flags"]
    different = []
    for name in PREPROCESSING_FLAGS:
        done, recommended = transform[name], getattr(recipe, name)
        done, recommended = (tuple(v) if isinstance(v, list) else v for v in (done, recommended))
        if name in ("mean", "std"):
            done, recommended = (v * 3 if len(v) == 1 else v for v in (done, recommended))
        if done != recommended and not (name == "interpolation" and transform["resize"] is None):
            different.append(f"{name} {_words(done)}, not {_words(recommended)}")
    return different


def _words(value: Any) -> str:
    return " ".join(f"{v:.4g}" for v in value) if isinstance(value, tuple) else str(value).lower()


def _side(flag: SideLength | tuple[int, int] | None, recommended: Any) -> Any:
    return recommended if flag is None else None if flag == "none" else flag


def _shortest(resize: int | tuple[int, int]) -> int:
    return min(resize) if isinstance(resize, tuple) else resize
