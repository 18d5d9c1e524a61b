"""Makes the model that --model names: from a user's file, a library or a saved program. It knows nothing of images.

torch is imported when a model is made, so that everything else works where it is not installed.
"""

import contextlib
import copy
import functools
import hashlib
import importlib.util
import io
import sys
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predboard import user_code
from predboard.errors import InputError, first_line
from predboard.images.preprocessing import Recipe
from predboard.invocation import install_command
from predboard.models import checkpoints, hubs
from predboard.models import weights as matching
from predboard.near_paths import did_you_mean_path
from predboard.predictions.schema import SINGLE_LABEL
from predboard.storage.paths import MAX_READ_GB

if TYPE_CHECKING:
    import torch

PROGRAM_SUFFIXES = (".pt2", ".pt", ".pth", ".ts", ".torchscript", ".jit")
"""Endings of the file names of saved programs: torch.export and TorchScript."""

_OTHER_SEED = 2_654_435_769
"""A seed that no user chooses; random weights differ from those of any other."""

_MAX_FIXED_ROWS = 64
"""Rows of a batch for a program whose own limits allow more."""


def require_torch() -> None:
    """Raise InputError with the command that installs torch, if it is missing."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(f"inference needs PyTorch, which is not installed: {install_command(extra='infer')}")


@dataclass(frozen=True)
class ModelFactory:
    """Makes a model; each call of `build` gives a new module."""

    name: str
    """FILE.py:FACTORY without the folder, LIBRARY:NAME, or the file name of a program."""
    code: str
    """Digest of the file; empty for a library's model."""
    make: Any
    """The user's function or module, or the function that makes a library's model or loads a program."""
    args: Mapping[str, Any]
    """--model-args."""
    folder: Path
    """Folder of the file, from which it may import its neighbours."""
    ema: bool = False
    trust: bool = False
    max_read_gb: float = MAX_READ_GB
    """Options for reading checkpoints, see `checkpoints.read`."""
    hub_model: hubs.HubModel | None = None
    """The library's description of its model; None for any other model."""
    _built: "weakref.WeakSet[torch.nn.Module]" = field(default_factory=weakref.WeakSet)

    @property
    def recipe(self) -> Recipe | None:
        """Return the preprocessing and class names that the model's library recommends; None if it does not say."""
        return None if self.hub_model is None else self.hub_model.recipe

    def build(self, file: Path | None = None, log: Callable[[str], None] = lambda _: None) -> "torch.nn.Module":
        """Return a new module with the weights of a checkpoint.

        Without a checkpoint it has the library's pretrained weights, or random ones that are the same each time. A
        library's model gets as many outputs as the checkpoint has. Raises InputError if the factory fails, or if the
        checkpoint belongs to another model.
        """
        if file is None:
            if self.ema:
                raise InputError("--ema takes a moving average of weights from a checkpoint: name one by --checkpoint")
            if self.hub_model is None:
                return self._to_float32(_refuse_without_values(self._make(), self.name), log)
            return self._make(pretrained=bool(self.args.get("pretrained", True)), outputs=None)
        home = str(getattr(self.make, "__module__", ""))
        main = sys.modules.get(home) if home.startswith("predboard_model_") else None  # as `user_code` imports a file
        weights = checkpoints.read(
            file,
            ema=self.ema,
            trust=self.trust,
            folder=self.folder,
            main=main,
            log=log,
            max_read_gb=self.max_read_gb,
        )
        if self.hub_model is None:
            module = _refuse_without_values(self._make(), self.name)
        else:
            module = self._make(pretrained=False, outputs=self._count_outputs(weights, self.hub_model))
        matching.load(module, weights, file, log)
        return self._to_float32(module, log)

    def find_random(self, built: "torch.nn.Module", /) -> tuple[str, ...]:
        """Return the names of the weights that are random in a module that `build` made without a checkpoint.

        It is built once more, from other random numbers and without a word. A library's pretrained model is not asked,
        unless it was given another number of outputs, and neither is a module or a program, which is built once.
        """
        import torch

        pretrained = self.hub_model is not None and bool(self.args.get("pretrained", True))
        if isinstance(self.make, torch.nn.Module | functools.partial) and self.hub_model is None:
            return ()
        if self.hub_model is not None and pretrained and self.hub_model.outputs_argument not in self.args:
            return ()
        more = {} if self.hub_model is None else {"pretrained": pretrained, "outputs": None}
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            again = self._make(_OTHER_SEED, **more).state_dict()
        return tuple(name for name, value in built.state_dict().items() if not _is_same(value, again.get(name)))

    def _to_float32(self, module: "torch.nn.Module", log: Callable[[str], None]) -> "torch.nn.Module":
        """Return a module whose floats are all float32, as its images are; a program keeps the types in its code."""
        import torch

        types = {tensor.dtype for tensor in [*module.parameters(), *module.buffers()] if tensor.is_floating_point()}
        if types <= {torch.float32} or isinstance(self.make, functools.partial):
            return module
        names = ", ".join(sorted(str(type_).removeprefix("torch.") for type_ in types - {torch.float32}))
        log(f"weights are {names} and run as float32: --precision bf16 or fp16 runs them in half precision")
        return module.float()

    def _count_outputs(self, weights: "Mapping[str, torch.Tensor]", hub_model: hubs.HubModel) -> int | None:
        """Return the number of outputs of these weights; None if it is the one that the library's model has anyway."""
        import torch

        if hub_model.outputs_argument in self.args:
            return None
        try:
            with torch.device("meta"):  # takes no time and no memory
                like = self._make(pretrained=False, outputs=None)
        except InputError:  # a model that computes with its weights while it is made
            like = self._make(pretrained=False, outputs=None)
        return matching.count_outputs(weights, like.state_dict())

    def _make(self, seed: int = 0, **more: Any) -> "torch.nn.Module":
        import torch

        torch.manual_seed(seed)  # so that a model without a checkpoint is the same when a run is resumed
        module = self.make
        if not isinstance(module, torch.nn.Module):
            try:
                with user_code.import_path(self.folder), _fixed_seed() if seed else contextlib.nullcontext():
                    module = module(**{**self.args, **more})
            except InputError:
                raise
            except (Exception, SystemExit) as error:  # the user's own code may raise anything; it becomes one line
                raise InputError(f"{self.name} raised {type(error).__name__}: {first_line(error)}") from error
        elif self.args:
            raise InputError(f"{self.name} is a module, not a function, and takes no --model-args")
        if not isinstance(module, torch.nn.Module):
            raise InputError(f"{self.name} returned a {type(module).__name__}; expected a torch.nn.Module")
        if module in self._built:  # the same object again, which still holds the checkpoint before
            module = copy.deepcopy(module)
        self._built.add(module)
        return module


def _refuse_without_values(module: "torch.nn.Module", name: str) -> "torch.nn.Module":
    """Return a module. Raises InputError if a weight has no values yet, which no checkpoint could be loaded into."""
    import torch

    for tensor_name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor) or tensor.is_meta:
            raise InputError(
                f"{name} returned a module whose {tensor_name} has no values yet, as of lazy layers and of the device "
                "meta: call it on an image before it is returned, or make it on the CPU"
            )
    return module


@contextlib.contextmanager
def _fixed_seed() -> Iterator[None]:
    """Keep the user's code from choosing the seed, so that its random weights differ from those of another seed."""
    import torch

    original, torch.manual_seed = torch.manual_seed, lambda _: torch.default_generator  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.manual_seed = original


def _is_same(value: Any, other: Any) -> bool:
    import torch

    if not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        return True
    other = other.to(value.dtype)  # what runs is float32
    return value.shape == other.shape and torch.equal(value.nan_to_num(), other.nan_to_num())


def open_factory(
    spec: str,
    args: Mapping[str, Any],
    *,
    ema: bool = False,
    trust: bool = False,
    max_read_gb: float = MAX_READ_GB,
    task: str = SINGLE_LABEL,
) -> ModelFactory:
    """Return the factory of the model that --model names.

    Args:
        spec: FILE.py:FACTORY, LIBRARY:NAME or the path of a program, as the user gave it.
        args: arguments for the factory.
        ema, trust, max_read_gb: how checkpoints are read, see `checkpoints.read`.
        task: whether an image has one label or several, which a library may know of its model.

    Raises InputError if there is no such file or name, or if the file cannot be imported.
    """
    if spec.startswith(hubs.HUB_PREFIXES):
        hub_model = hubs.open_hub_model(spec, args, task)
        name = hubs.display_name(spec)
        return ModelFactory(name, "", hub_model.make, dict(args), Path(), ema, trust, max_read_gb, hub_model)
    if spec.endswith(PROGRAM_SUFFIXES):
        return _open_program(Path(spec), args, ema, trust)
    function = user_code.load_object(
        spec,
        "model",
        "FILE.py:FACTORY, for example my_model.py:build; torchvision:NAME, timm:NAME or hf:NAME_OR_FOLDER; or a saved "
        "program (.pt2, TorchScript)",
    )
    if not callable(function.value):
        file, _, name = spec.rpartition(":")
        raise InputError(
            f"{name!r} in {file} is a {type(function.value).__name__}; expected a function that returns a "
            "torch.nn.Module"
        )
    named = (function.name, function.code, function.value, dict(args), function.folder)
    return ModelFactory(*named, ema, trust, max_read_gb)


def _open_program(file: Path, args: Mapping[str, Any], ema: bool, trust: bool) -> ModelFactory:
    """Return the factory of a saved program. A program is code, as FILE.py is: whoever names it trusts it."""
    if not file.is_file():
        raise InputError(
            f"there is no model file {file}; expected FILE.py:FACTORY, or a program (.pt2, TorchScript)"
            f"{did_you_mean_path(file, Path.is_file)}"
        )
    if args:
        raise InputError(f"{file} is a program, not a function, and takes no --model-args")
    with file.open("rb") as stream:
        code = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    make = _load_exported if file.suffix == ".pt2" else _load_torchscript
    return ModelFactory(file.name, code, functools.partial(make, file, trust), {}, file.parent, ema, trust)


def _load_exported(file: Path, _: bool) -> "torch.nn.Module":
    """Load what torch.export.save wrote; its attribute `predboard_rows` says what size of batch it needs, if any."""
    import torch

    if not zipfile.is_zipfile(file):  # torch would log a traceback
        raise InputError(f"{file} cannot be read as a program: torch.export.save did not write it")
    try:
        program = torch.export.load(file)
    except Exception as error:  # torch raises zip, JSON and runtime errors alike; all mean the same to the user
        raise InputError(f"{file} cannot be read as a program: {type(error).__name__}: {first_line(error)}") from error
    inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise InputError(f"{file} takes {len(inputs)} inputs; expected one, of [rows, channels, height, width]")
    # aten.dropout(input, p, train), aten.batch_norm(input, weight, bias, mean, variance, training, …)
    modes = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}
    if any(n.args[modes[str(n.target)]] is True for n in program.graph.nodes if str(n.target) in modes):
        raise InputError(f"{file} was exported in training mode: call model.eval() before torch.export.export")
    module: torch.nn.Module = program.module()
    rows = inputs[0].meta["val"].shape[0]
    if isinstance(rows, int):
        module.predboard_rows = rows  # type: ignore[assignment]  # a plain attribute, which torch's stub forbids
    else:
        limits = program.range_constraints.get(rows.node.expr)
        least, most = (1, None) if limits is None else (int(limits.lower), _finite(limits.upper))
        if least > 1 or most is not None:
            fixed = max(least, min(_MAX_FIXED_ROWS, most or _MAX_FIXED_ROWS))
            module.predboard_rows = fixed  # type: ignore[assignment]  # the same
    return module


def _finite(bound: Any) -> int | None:
    """Return a symbolic upper bound as a number; None if there is none."""
    return int(bound) if getattr(bound, "is_Integer", False) and int(bound) < 1 << 30 else None


def _load_torchscript(file: Path, trust: bool) -> "torch.nn.Module":
    """Load what torch.jit.save wrote; with `trust` also a module that was pickled whole."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about TorchScript
            module: torch.nn.Module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]  # torch's own lack
    except Exception as error:  # torch raises runtime errors of any kind for a file that is no TorchScript
        return checkpoints.read_module(file, trust, error)
    return module
