"""A model's name -> module with its weights, and their digests. Knows nothing of data or of runs on disk.

torch is imported when a model is, so that everything else works where it is not installed.
"""

import ast
import contextlib
import copy
import difflib
import functools
import hashlib
import importlib.util
import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predboard import user_code
from predboard.errors import InputError, first_line
from predboard.images.preprocessing import Recipe
from predboard.models import checkpoints, hubs

if TYPE_CHECKING:
    import torch

PROGRAM_SUFFIXES = (".pt2", ".pt", ".pth", ".ts", ".torchscript", ".jit")
"""How the names of programs end: torch.export's, and TorchScript."""


def require_torch() -> None:
    """Raise InputError with the command that installs torch, if it is missing."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("inference needs PyTorch, which is not installed: pip install 'predboard[infer]'")


@dataclass(frozen=True)
class ModelFactory:
    """Where a model comes from; calling `build` makes a new module each time."""

    name: str
    """FILE.py:FACTORY without the folder, what names a library's model, or the name of a program."""
    code: str
    """Digest of the file."""
    make: Any
    args: Mapping[str, Any]
    folder: Path
    """Of the file, whose neighbours it may import."""
    ema: bool = False
    trust: bool = False
    """How checkpoints are read, see `weights.read`."""
    library: hubs.HubModel | None = None
    """Of whose models this is one."""
    _built: "weakref.WeakSet[torch.nn.Module]" = field(default_factory=weakref.WeakSet)

    @property
    def recipe(self) -> Recipe | None:
        """What its library says of its pictures and classes."""
        return None if self.library is None else self.library.recipe

    def build(self, file: Path | None = None, say: Callable[[str], None] = lambda _: None) -> "torch.nn.Module":
        """A new module with the weights of a file, else with its library's or with the same random ones each time.

        A library's model gets as many outputs as the file is for. Raises InputError if the factory fails, or the
        weights are of another model.
        """
        if file is None:
            if self.ema:
                raise InputError("--ema takes the moving average of weights from a checkpoint: name it by --checkpoint")
            if self.library is None:
                return self._made()
            return self._made(pretrained=bool(self.args.get("pretrained", True)), outputs=None)
        read = checkpoints.read(file, ema=self.ema, trust=self.trust, folder=self.folder, say=say)
        if self.library is None:
            module = self._made()
        else:
            module = self._made(pretrained=False, outputs=self._outputs(read, self.library))
        checkpoints.load(module, read, file)
        return module

    def _outputs(self, read: "Mapping[str, torch.Tensor]", library: hubs.HubModel) -> int | None:
        """How many outputs these weights are for, None for as many as the library's model has anyway."""
        import torch

        if library.sized in self.args:
            return None
        try:
            with torch.device("meta"):  # takes no time and no memory
                like = self._made(pretrained=False, outputs=None)
        except InputError:  # a model that computes with its weights when it is made
            like = self._made(pretrained=False, outputs=None)
        return checkpoints.count_outputs(read, like.state_dict())

    def _made(self, **more: Any) -> "torch.nn.Module":
        import torch

        torch.manual_seed(0)  # so that a model without a checkpoint is the same model when a run is resumed
        made = self.make
        if not isinstance(made, torch.nn.Module):
            try:
                with user_code.import_path(self.folder):
                    made = made(**{**self.args, **more})
            except InputError:
                raise
            except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is shown, in one line
                raise InputError(f"{self.name} raised {type(error).__name__}: {first_line(error)}") from error
        elif self.args:
            raise InputError(f"{self.name} is a module, not a function; it cannot take --model-args")
        if not isinstance(made, torch.nn.Module):
            raise InputError(f"{self.name} gave a {type(made).__name__}; expected a torch.nn.Module")
        if made in self._built:  # the same module again, which would take its weights from the checkpoint before
            made = copy.deepcopy(made)
        self._built.add(made)
        return made


def open_factory(spec: str, args: Mapping[str, Any], *, ema: bool = False, trust: bool = False) -> ModelFactory:
    """The model named by --model: FILE.py:FACTORY, a library's, or a program.

    Args:
        spec: as the user gave it.
        args: for the factory.
        ema, trust: how checkpoints are read, see `weights.read`.

    Raises InputError if the file or the name is not there, or does not import.
    """
    if spec.startswith(hubs.HUB_PREFIXES):
        library = hubs.open_hub_model(spec, args)
        return ModelFactory(hubs.display_name(spec), "", library.make, dict(args), Path(), ema, trust, library)
    if spec.endswith(PROGRAM_SUFFIXES):
        return _program(Path(spec), args, ema, trust)
    found = user_code.load_object(
        spec,
        "model",
        "FILE.py:FACTORY, for example my_model.py:build; torchvision:NAME, timm:NAME or hf:NAME_OR_FOLDER; or a "
        "program (.pt2, TorchScript)",
    )
    if not callable(found.value):
        file, _, name = spec.rpartition(":")
        raise InputError(
            f"{name!r} in {file} is a {type(found.value).__name__}; expected a function that returns a torch.nn.Module"
        )
    return ModelFactory(found.name, found.code, found.value, dict(args), found.folder, ema, trust)


def _program(file: Path, args: Mapping[str, Any], ema: bool, trust: bool) -> ModelFactory:
    """A program that torch.export or TorchScript saved: code, as FILE.py is, so that naming it is trusting it."""
    if not file.is_file():
        raise InputError(f"no model file {file}; expected FILE.py:FACTORY, or a program (.pt2, TorchScript)")
    if args:
        raise InputError(f"{file} is a program, not a function; it cannot take --model-args")
    code = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    make = _exported if file.suffix == ".pt2" else _torchscript
    return ModelFactory(file.name, code, functools.partial(make, file, trust), {}, file.parent, ema, trust)


def _exported(file: Path, _: bool) -> "torch.nn.Module":
    """What torch.export.save wrote; `predboard_rows` says what batches it takes, if not any."""
    import torch

    try:
        program = torch.export.load(file)
    except Exception as error:  # torch raises zip, JSON and runtime errors alike; each means the same to the user
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
            module.predboard_rows = max(least, min(64, most or 64))  # type: ignore[assignment]  # the same
    return module


def _finite(bound: Any) -> int | None:
    """A symbolic upper bound, None if there is none."""
    return int(bound) if getattr(bound, "is_Integer", False) and int(bound) < 1 << 30 else None


def _torchscript(file: Path, trust: bool) -> "torch.nn.Module":
    """What torch.jit.save wrote; with trust also a module that was pickled whole."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
            module: torch.nn.Module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]  # torch's own lack
    except Exception as error:  # torch raises runtime errors of any kind for what is no TorchScript
        return checkpoints.read_module(file, trust, error)
    return module


def parse_literals(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Values read as Python literals where they are one, else as the text they are.

    >>> parse_literals({"depth": "20", "name": "small"})
    {'depth': 20, 'name': 'small'}
    """

    def read(text: str) -> Any:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return text

    return {key: read(value) for key, value in pairs.items()}


def parse_step(file: Path) -> int | None:
    """Step in a file's name: the number after step, else iter, else epoch; None if there is none."""
    for word in ("step", "iter", "epoch"):
        if found := re.search(rf"{word}(?:ation)?[-_=. ]*(\d+)", file.stem, re.IGNORECASE):
            return int(found[1])
    found = re.fullmatch(r"checkpoint-(\d+)", file.name)  # a folder, as transformers' Trainer names it
    return int(found[1]) if found else None


def step_or_zero(file: Path) -> int:
    """Step in a checkpoint's file name: the number after step, else iter, else epoch, else 0.

    >>> [step_or_zero(Path(name)) for name in ("run2_epoch=7-step=1200.ckpt", "net_epoch03.pt", "resnet20-12fca82f.th")]
    [1200, 3, 0]
    """
    return parse_step(file) or 0


def assign_steps(files: tuple[Path, ...], given: tuple[int, ...]) -> dict[int, Path | None]:
    """Step -> checkpoint, ascending; without files one step of None. Raises InputError if two share a step."""
    if not files:
        return {given[0] if given else 0: None}
    steps: dict[int, Path | None] = {}
    for file, step in zip(files, given or tuple(map(step_or_zero, files)), strict=True):
        if step in steps:
            raise InputError(f"{steps[step]} and {file} are both of step {step}: name their steps by --step")
        steps[step] = file
    return dict(sorted(steps.items()))


def digest_weights(module: "torch.nn.Module") -> str:
    """16 hexadecimal digits that change with any parameter or buffer, whatever file they came from."""
    import torch

    hashed = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            hashed.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return hashed.hexdigest()


def extract_logits(output: Any) -> "torch.Tensor":
    """The logits in whatever a model returned: a tensor, an object or mapping with logits, or a tuple's first item.

    Of [rows, classes, 1, 1], as fully convolutional models give, the last two are dropped. Raises InputError if that is
    no float tensor of [rows, classes].
    """
    import torch

    found = output
    if not isinstance(found, torch.Tensor):
        if isinstance(found, Mapping):
            found = found.get("logits")
        elif hasattr(found, "logits"):
            found = found.logits
        elif isinstance(found, tuple | list) and found:
            found = found[0]
    if not isinstance(found, torch.Tensor):
        raise InputError(
            f"the model returned a {type(output).__name__} without logits; expected a tensor of [rows, classes]"
        )
    if found.ndim == 4 and found.shape[2:] == (1, 1):
        found = found[:, :, 0, 0]
    if found.ndim != 2 or not found.shape[1] or not found.is_floating_point():
        raise InputError(
            f"the model returned {found.dtype} of shape {list(found.shape)}; expected floats of [rows, classes]"
        )
    return found


_ENDS = {"SigmoidBackward0": "sigmoid", "SoftmaxBackward0": "softmax", "LogSoftmaxBackward0": "log_softmax"}
_PASSED_OVER = ("ToCopy", "View", "UnsafeView", "Squeeze", "Unsqueeze", "Slice", "Select", "Clone", "Alias", "Reshape")


def final_activation(module: "torch.nn.Module", x: "torch.Tensor") -> str:
    """What a model does last, as far as autograd knows: sigmoid, softmax, log_softmax, or an empty text.

    Args:
        module: in eval mode.
        x: pictures that it can take.
    """
    import torch

    with torch.enable_grad():
        try:
            last = extract_logits(
                module(x.detach().requires_grad_() * 1)
            ).grad_fn  # * 1: a leaf cannot be changed in place
        except (InputError, RuntimeError):  # it works without gradients, and what it does last stays unknown
            return ""
    while last is not None and last.name().startswith(_PASSED_OVER) and last.next_functions:
        last = last.next_functions[0][0]
    return "" if last is None else _ENDS.get(last.name(), "")


def parse_device(name: str) -> "torch.device":
    """The device of that name; `auto` is cuda, else mps, else cpu. Raises InputError if it is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device is {name!r}; expected auto, cpu, cuda, cuda:1 or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise InputError(f"--device is {name}, which this machine does not have: use --device auto or cpu")
    return device


def parse_devices(names: str) -> tuple["torch.device", ...]:
    """The devices that names separated by commas stand for; `auto` is all of cuda where there is more than one.

    Raises InputError if one is not there.
    """
    import torch

    if names == "auto" and torch.cuda.is_available() and torch.cuda.device_count() > 1:
        return tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    return tuple(parse_device(name.strip()) for name in names.split(","))


class Network:
    """A module on a device, in eval mode and channels_last, that maps pictures to logits and embeddings.

    A module that takes only batches of one size says so by an attribute `predboard_rows`.
    """

    rows: int | None
    """Every batch is brought to this many rows, with black pictures whose logits are dropped; None: as it comes."""

    def __init__(
        self,
        module: "torch.nn.Module",
        device: "torch.device",
        precision: str,
        embeddings: bool | str,
        *,
        advice: str = "see --resize, --crop and --channels",
    ) -> None:
        """Move the module.

        Args:
            module: what it runs.
            device: where.
            precision: fp32, bf16 or fp16.
            embeddings: True for the input of the last linear layer, the name of a layer for its output.
            advice: what to do where it cannot take the pictures.

        Raises InputError if embeddings are wanted and there is no such layer.
        """
        import torch

        self.rows = getattr(module, "predboard_rows", None)
        # A TorchScript program does not say what batches it takes; it is tried with the first picture.
        self._untried = isinstance(module, torch.jit.ScriptModule) and self.rows is None
        if "eval" not in vars(module):  # torch.export gives its programs one that only raises: they know one mode
            module.eval()
        self.module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the combination
        self._device, self._precision, self._advice = device, precision, advice
        self._compiled = False
        self._embedding: torch.Tensor | None = None
        self._wanted = embeddings
        if isinstance(embeddings, str):
            self._layer(embeddings).register_forward_hook(self._keep_output)
        elif embeddings:
            linear = [m for m in self.module.modules() if isinstance(m, torch.nn.Linear)]
            if not linear:
                raise InputError(
                    "--embeddings stores the input of the last linear layer, and the model has none (the layers of a "
                    "program cannot be seen): --embedding-layer NAME stores the output of another"
                )
            linear[-1].register_forward_pre_hook(self._keep_input)

    def compile(self) -> None:
        """Compile the module, for batches of one size. Raises InputError for a program, which is compiled already."""
        import torch

        if isinstance(self.module, torch.jit.ScriptModule):
            raise InputError("--compile is for modules; a TorchScript program is compiled already: leave it out")
        self.module = torch.compile(self.module, dynamic=False)
        self._compiled = True

    def _layer(self, name: str) -> "torch.nn.Module":
        import torch

        layers = dict(self.module.named_modules())
        if not name or name not in layers or isinstance(self.module, torch.jit.ScriptModule):
            near = difflib.get_close_matches(name, layers, 3, 0.5)
            near += [n for n in reversed(list(layers)) if n and n.count(".") < 2 and n not in near]
            raise InputError(f"--embedding-layer is {name!r}, which the model has not; it has: {', '.join(near[:20])}")
        found: torch.nn.Module = layers[name]
        return found

    def _keep_input(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self._embedding = _pooled(inputs[0], features_last=True)

    def _keep_output(self, layer: Any, _: tuple[Any, ...], output: Any) -> None:
        import torch

        found = output[0] if isinstance(output, tuple | list) and output else output
        found = getattr(found, "last_hidden_state", found)
        if not isinstance(found, torch.Tensor) or found.ndim < 2 or not found.is_floating_point():
            raise InputError(f"--embedding-layer: {self._wanted} gives no floats of [rows, …]; name another layer")
        self._embedding = _pooled(found, isinstance(layer, torch.nn.Linear | torch.nn.LayerNorm))

    def __call__(self, x: "torch.Tensor", rows: int | None = None) -> tuple["torch.Tensor", "torch.Tensor | None"]:
        """Logits float32 [rows, classes] and embeddings [rows, dims] of pictures [rows, channels, height, width].

        `rows` is the usual size of a batch, to which a compiled module has every one brought. Raises InputError if the
        model cannot take them.
        """
        import torch

        if self._untried:
            self.rows, self._untried = self._rows_of(x[:1]), False
        one_size = self.rows or (rows if self._compiled else None)
        if one_size is None:
            return self._batch(x)
        found = [self._padded(part, one_size) for part in torch.split(x, one_size)]
        if len(found) == 1:
            return found[0]
        embeddings = [embedding for _, embedding in found if embedding is not None]
        return torch.cat([logits for logits, _ in found]), torch.cat(embeddings) if embeddings else None

    def probe(self, x: "torch.Tensor") -> tuple["torch.Tensor", int]:
        """Logits [rows, classes] of some pictures, and the length of an embedding (0 if there are none).

        Raises InputError for what is not one label of a fixed list: one output, or a sigmoid for each class.
        """
        logits, embedding = self(x)
        if logits.shape[1] == 1:
            raise InputError(
                "the model gives one output; expected one for each class. Of two classes, let it give two: "
                "torch.cat([torch.zeros_like(z), z], 1) has the same probabilities as sigmoid(z)"
            )
        x = x if self.rows is None else _filled(x[: self.rows], self.rows)
        if final_activation(self.module, x) == "sigmoid":
            raise InputError(
                "the model ends in a sigmoid for each class, so that it may name several for one image; expected one "
                "label of a fixed list: give the scores before the sigmoid, if only the highest counts"
            )
        return logits, 0 if embedding is None else embedding.shape[1]

    def _rows_of(self, picture: "torch.Tensor") -> int | None:
        """The size of the batches that it takes, None if that is any: whether 1, 2, 4, … 1,024 work."""

        def works(rows: int) -> bool:
            try:
                self._batch(picture.repeat(rows, 1, 1, 1))
            except InputError:
                return False
            return True

        if works(1):
            return None if works(2) else 1
        return next((rows for rows in (2**power for power in range(1, 11)) if works(rows)), None)

    def _padded(self, x: "torch.Tensor", rows: int) -> tuple["torch.Tensor", "torch.Tensor | None"]:
        logits, embedding = self._batch(_filled(x, rows))
        return logits[: len(x)], None if embedding is None else embedding[: len(x)]

    def _batch(self, x: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor | None"]:
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        autocast = torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)
        # Not inference_mode: a tensor that a model keeps from it could never be trained through.
        # Kernels that a model starts by itself, as of Triton, run on the current device.
        here = torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()
        with torch.no_grad(), here, autocast, _without_tf32():
            try:
                output = self.module(x)
            except _RAISED as error:
                if is_out_of_memory(error):
                    raise
                if self._compiled:
                    raise InputError(f"--compile does not work with this model: {first_line(error)}") from error
                shape = "×".join(map(str, x.shape[1:]))
                raise InputError(
                    f"the model cannot take pictures of {shape} (channels×height×width): "
                    f"{type(error).__name__}: {first_line(error)}; {self._advice}"
                ) from error
            logits = extract_logits(output).float()
            if len(logits) != len(x):
                raise InputError(f"the model returned {len(logits)} rows for {len(x)} pictures; expected one for each")
            if self._wanted and (self._embedding is None or len(self._embedding) != len(x)):
                raise InputError(
                    f"--embedding-layer: {self._wanted} does not see each picture once; name another layer"
                    if isinstance(self._wanted, str)
                    else "--embeddings stores the input of the last linear layer, and the model's last one does not "
                    "see each picture once"
                )
            return logits, self._embedding


_RAISED = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, ArithmeticError)
"""What the user's own forward raises for a picture that it is not made for."""


def _without_tf32() -> contextlib.AbstractContextManager[None]:
    """fp32 means it: convolutions would use TF32, with 10 bits of mantissa, unless told otherwise."""
    import torch

    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # where a program has set the newer fp32_precision, the older switch cannot be used
        general = torch.backends.fp32_precision, cudnn.fp32_precision  # type: ignore[attr-defined]  # torch's stub lacks it
        if general != ("none", "none") or cudnn.conv.fp32_precision != cudnn.rnn.fp32_precision:
            return _ieee(cudnn.conv)
    legacy: contextlib.AbstractContextManager[None] = cudnn.flags(
        cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )
    return legacy


@contextlib.contextmanager
def _ieee(operation: Any) -> Iterator[None]:
    was = operation.fp32_precision
    operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        operation.fp32_precision = was


def _filled(x: "torch.Tensor", rows: int) -> "torch.Tensor":
    """[rows, …]: black pictures are added at the end."""
    import torch

    if len(x) == rows:
        return x
    return torch.cat([x, x.new_zeros((rows - len(x), *x.shape[1:]))]).contiguous(memory_format=torch.channels_last)


def _pooled(features: "torch.Tensor", features_last: bool) -> "torch.Tensor":
    """[rows, dims]: the mean over space or over tokens.

    Args:
        features: [rows, dims], [rows, tokens, dims], [rows, dims, height, width] or, with `features_last`,
            [rows, height, width, dims].
        features_last: whether the last dimension is that of the features.
    """
    if features.ndim == 2:
        return features
    return features.flatten(1, -2).mean(1) if features_last or features.ndim == 3 else features.flatten(2).mean(2)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory was not enough; not every kind of device has the exception for it."""
    import torch

    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # of MPS, of a CPU, of cuDNN and cuBLAS
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def available_memory(device: "torch.device") -> int:
    """Bytes of memory that a device has: what is free of a GPU, and all of a machine."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # SC_AVPHYS_PAGES leaves out what the system
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # would give back from its cache of files
    return 4 * 2**30


def module_bytes(module: "torch.nn.Module") -> int:
    """Memory that a module's parameters and buffers take."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])
