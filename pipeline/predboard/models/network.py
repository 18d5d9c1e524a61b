"""Runs a module on a device: images as a tensor -> logits and embeddings. It knows nothing of where modules come from.

torch is imported when it is needed, so that everything else works where it is not installed.
"""

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from predboard.errors import InputError, first_line
from predboard.models.devices import is_out_of_memory
from predboard.predictions.schema import SINGLE_LABEL

if TYPE_CHECKING:
    import torch

_MAX_FIXED_ROWS_LOG2 = 10
"""The largest size of batch that is tried with a program that takes only one size, as a power of two."""

_ACTIVATIONS = {
    "SigmoidBackward0": "sigmoid",
    "LogSigmoidBackward0": "log_sigmoid",
    "SoftmaxBackward0": "softmax",
    "LogSoftmaxBackward0": "log_softmax",
}
"""Autograd's names of the activations that a model may end in."""

_RESHAPES = ("ToCopy", "View", "UnsafeView", "Squeeze", "Unsqueeze", "Slice", "Select", "Clone", "Alias", "Reshape")
"""Beginnings of autograd's names of operations that leave the numbers as they are."""


class Network:
    """Runs a module on a device, in eval mode and channels_last: it maps images to logits and embeddings.

    A module that takes batches of a single size only has an attribute `predboard_rows` with that size.
    """

    rows: int | None
    """Size that every batch is padded to, with black images whose logits are dropped; None if any size will do."""

    def __init__(
        self,
        module: "torch.nn.Module",
        device: "torch.device",
        precision: str,
        embeddings: bool | str,
        *,
        advice: str = "see --resize, --crop and --channels",
    ) -> None:
        """Move the module to the device.

        Args:
            module: the model.
            device: where it runs.
            precision: fp32, bf16 or fp16.
            embeddings: True for the input of the last linear layer, or the name of a layer for its output.
            advice: the end of the error message where the module cannot take the images.

        Raises InputError if embeddings are wanted and there is no such layer.
        """
        import torch

        self.rows = getattr(module, "predboard_rows", None)
        # A TorchScript program does not say what batches it takes; that is found out with the first image.
        self._untried = isinstance(module, torch.jit.ScriptModule) and self.rows is None
        with _own_code(lambda error: f"the model cannot be put on {device} in eval mode: {error}"):
            if "eval" not in vars(module):  # torch.export gives its programs one that only raises: they have one mode
                module.eval()
            self.module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks the combination
        self._device, self._precision, self._advice = device, precision, advice
        self._compiled = False
        self._embedding: torch.Tensor | None = None
        self._embeddings = embeddings
        if isinstance(embeddings, str):
            self._find_layer(embeddings).register_forward_hook(self._store_output)
        elif embeddings:
            linear = [m for m in self.module.modules() if isinstance(m, torch.nn.Linear)]
            if not linear:
                raise InputError(
                    "--embeddings stores the input of the last linear layer, and the model has none (the layers of a "
                    "program cannot be seen): store the output of another layer by --embedding-layer NAME"
                )
            linear[-1].register_forward_pre_hook(self._store_input)

    @property
    def takes_any_size(self) -> bool:
        """Whether a batch of any size goes through the module as it is; found out with the first one."""
        return self.rows is None and not self._compiled and not self._untried

    def compile(self) -> None:
        """Compile the module, for batches of a single size. Raises InputError for a program, which is compiled."""
        import torch

        if isinstance(self.module, torch.jit.ScriptModule):
            raise InputError("--compile is for modules; a TorchScript program is compiled already: leave it out")
        self.module = torch.compile(self.module, dynamic=False)
        self._compiled = True

    def _find_layer(self, name: str) -> "torch.nn.Module":
        import torch

        layers = dict(self.module.named_modules())
        if not name or name not in layers or isinstance(self.module, torch.jit.ScriptModule):
            near = difflib.get_close_matches(name, layers, 3, 0.5)
            near += [n for n in reversed(list(layers)) if n and n.count(".") < 2 and n not in near]
            raise InputError(f"the model has no layer {name!r} (--embedding-layer); it has: {', '.join(near[:20])}")
        layer: torch.nn.Module = layers[name]
        return layer

    def _store_input(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self._embedding = _pool(inputs[0], features_last=True)

    def _store_output(self, layer: Any, _: tuple[Any, ...], output: Any) -> None:
        import torch

        features = output[0] if isinstance(output, tuple | list) and output else output
        features = getattr(features, "last_hidden_state", features)
        if not isinstance(features, torch.Tensor) or features.ndim < 2 or not features.is_floating_point():
            raise InputError(f"layer {self._embeddings} (--embedding-layer) gives no floats of [rows, …]: name another")
        self._embedding = _pool(features, isinstance(layer, torch.nn.Linear | torch.nn.LayerNorm))

    def __call__(self, x: "torch.Tensor", rows: int | None = None) -> tuple["torch.Tensor", "torch.Tensor | None"]:
        """Run the module.

        Args:
            x: images [rows, channels, height, width].
            rows: the usual size of a batch, to which each one is padded for a compiled module.

        -> logits, float32 [rows, classes]; embeddings [rows, dims], None if they are not wanted.

        Raises InputError if the model cannot take the images.
        """
        import torch

        if self._untried:
            self.rows, self._untried = self._find_batch_size(x[:1]), False
        fixed = self.rows or (rows if self._compiled else None)
        if fixed is None:
            return self._run(x)
        results = [self._run_padded(part, fixed) for part in torch.split(x, fixed)]
        if len(results) == 1:
            return results[0]
        embeddings = [embedding for _, embedding in results if embedding is not None]
        return torch.cat([logits for logits, _ in results]), torch.cat(embeddings) if embeddings else None

    def probe(self, x: "torch.Tensor", scores: str = "logits", task: str = SINGLE_LABEL) -> tuple["torch.Tensor", int]:
        """Run some images, to see whether the model gives what the task says.

        Args:
            x: images [rows, channels, height, width].
            scores: kind of the outputs, as --scores names it.
            task: whether an image has one label of a fixed list, or several.

        -> logits [rows, classes], or [rows, 1] for two classes, and the length of an embedding (0 if there are none).

        Raises InputError for one label if there is a sigmoid for each class, for several if there is a softmax, and for
        sigmoids whose output is not of this kind.
        """
        logits, embedding = self(x)
        x = x if self.rows is None else _fill(x[: self.rows], self.rows)
        last = final_activation(self.module, x)
        if task != SINGLE_LABEL:
            _check_sigmoids(last, scores)
        elif logits.shape[1] == 1:
            _check_single(last, scores)
        elif last == "sigmoid":
            raise InputError(
                "the model ends in a sigmoid for each class, so it may give an image several labels; expected one "
                "label of a fixed list: --task multi-label takes all of them, with --scores probabilities; return the "
                "scores before the sigmoid if only the highest one counts"
            )
        return logits, 0 if embedding is None else embedding.shape[1]

    def _find_batch_size(self, image: "torch.Tensor") -> int | None:
        """Return the first of 1, 2, 4, … 1,024 that works as the size of a batch; None if any size does."""

        def works(rows: int) -> bool:
            try:
                self._run(image.repeat(rows, 1, 1, 1))
            except InputError:
                return False
            return True

        if works(1):
            return None if works(2) else 1
        return next((2**n for n in range(1, _MAX_FIXED_ROWS_LOG2 + 1) if works(2**n)), None)

    def _run_padded(self, x: "torch.Tensor", rows: int) -> tuple["torch.Tensor", "torch.Tensor | None"]:
        logits, embedding = self._run(_fill(x, rows))
        return logits[: len(x)], None if embedding is None else embedding[: len(x)]

    def _run(self, x: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor | None"]:
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._precision)
        autocast = torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)
        # Kernels that a model starts by itself, as of Triton, run on the current device.
        current = torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()
        # Not inference_mode: a tensor that a model stores under it could never be trained through.
        with torch.no_grad(), current, autocast, _without_tf32():
            with _own_code(lambda error: self._explain(error, x)):
                output = self.module(x)
            logits = extract_logits(output, len(x)).float()
            if len(logits) != len(x):
                raise InputError(f"the model returned {len(logits)} rows for {len(x)} images; expected one for each")
            if self._embeddings and (self._embedding is None or len(self._embedding) != len(x)):
                raise InputError(
                    f"layer {self._embeddings} (--embedding-layer) does not see each image once: name another"
                    if isinstance(self._embeddings, str)
                    else "--embeddings stores the input of the last linear layer, and the model's last one does not "
                    "see each image once: name another layer by --embedding-layer NAME"
                )
            return logits, self._embedding

    def _explain(self, error: str, x: "torch.Tensor") -> str:
        if self._compiled:
            return f"--compile does not work with this model: {error}"
        shape = "×".join(map(str, x.shape[1:]))
        return f"the model cannot take images of {shape} (channels×height×width): {error}; {self._advice}"


@contextlib.contextmanager
def _own_code(explain: Callable[[str], str]) -> Iterator[None]:
    """Turn whatever the user's own module raises into an InputError of one line; too little memory stays what it is."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # it may raise anything, and sys.exit(0) in it would look like success
        if is_out_of_memory(error):
            raise
        raise InputError(explain(f"{type(error).__name__}: {first_line(error)}")) from error


def extract_logits(output: Any, rows: int | None = None) -> "torch.Tensor":
    """Return the logits in a model's output: a tensor, an object or mapping with `logits`, or a tuple's first item.

    Of [rows, classes, 1, 1], as fully convolutional models give, the last two dimensions are dropped. A model that
    squeezes its output gives [classes] for a single image, which is [1, classes]; and [rows], or a number for a single
    image, where it has one output, which is [rows, 1].

    Args:
        output: what the model returned.
        rows: number of its images, if known.

    Raises InputError if there is no float tensor of [rows, classes].
    """
    import torch

    logits = output
    if not isinstance(logits, torch.Tensor):
        if isinstance(logits, Mapping):
            logits = logits.get("logits")
        elif hasattr(logits, "logits"):
            logits = logits.logits
        elif isinstance(logits, tuple | list) and logits:
            logits = logits[0]
    if not isinstance(logits, torch.Tensor):
        raise InputError(
            f"the model returned a {type(output).__name__} without logits; expected a tensor of [rows, classes]"
        )
    if logits.layout != torch.strided:
        raise InputError(
            f"the model returned a tensor of layout {logits.layout}; expected a dense one, as of to_dense()"
        )
    if logits.ndim == 4 and logits.shape[2:] == (1, 1):
        logits = logits[:, :, 0, 0]
    if logits.ndim < 2 and rows == 1:
        logits = logits.reshape(1, -1)
    elif logits.ndim == 1 and len(logits) == rows:
        logits = logits[:, None]
    if logits.ndim != 2 or not logits.shape[1] or not logits.is_floating_point():
        raise InputError(
            f"the model returned {logits.dtype} of shape {list(logits.shape)}; expected floats of [rows, classes]"
        )
    return logits


def final_activation(module: "torch.nn.Module", x: "torch.Tensor") -> str:
    """Return the activation that a model ends in, as far as autograd can see it.

    Args:
        module: in eval mode.
        x: images that it can take.

    -> sigmoid, log_sigmoid, softmax, log_softmax, or an empty text for none or if it cannot be seen.
    """
    import torch

    with torch.enable_grad():
        try:
            # * 1: a leaf cannot be changed in place
            last = extract_logits(module(x.detach().requires_grad_() * 1), len(x)).grad_fn
        except (Exception, SystemExit):  # the user's own code works without gradients alone
            return ""
    while last is not None and last.name().startswith(_RESHAPES) and last.next_functions:
        last = last.next_functions[0][0]
    return "" if last is None else _ACTIVATIONS.get(last.name(), "")


_SIGMOIDS = {"sigmoid": "probabilities", "log_sigmoid": "log_probabilities"}
"""Kind of the scores that each of these activations gives."""


def _check_sigmoids(last: str, scores: str) -> None:
    """Raise InputError if what a model ends in does not give several labels per image, or not scores of this kind."""
    if last in ("softmax", "log_softmax"):
        raise InputError(
            f"the model ends in a {last}, so it gives an image one label of all; expected a sigmoid for each label, or "
            "the scores before it: leave --task multi-label out"
        )
    if last in _SIGMOIDS and scores != _SIGMOIDS[last]:
        kind = _SIGMOIDS[last]
        raise InputError(f"the model ends in a {last}, so it gives {kind.replace('_', ' ')}: use --scores {kind}")


def _check_single(last: str, scores: str) -> None:
    """Raise InputError if what a model with a single output ends in does not fit the kind of its scores."""
    kinds = _SIGMOIDS
    if last in ("softmax", "log_softmax"):
        raise InputError(
            f"the model has a single output and ends in a {last}, which is the same for every image; expected a "
            "sigmoid, or none"
        )
    if last in kinds and scores != kinds[last]:
        raise InputError(
            f"the model has a single output and ends in a {last}, so it gives {kinds[last].replace('_', ' ')}: use "
            f"--scores {kinds[last]}"
        )


def _without_tf32() -> contextlib.AbstractContextManager[None]:
    """Make fp32 mean fp32: convolutions would use TF32, with 10 bits of mantissa, by default."""
    import torch

    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # where a program has set the newer fp32_precision, the older switch cannot be used
        general = torch.backends.fp32_precision, cudnn.fp32_precision  # type: ignore[attr-defined]  # torch's stub lacks it
        if general != ("none", "none") or cudnn.conv.fp32_precision != cudnn.rnn.fp32_precision:
            return _with_ieee(cudnn.conv)
    legacy: contextlib.AbstractContextManager[None] = cudnn.flags(
        cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )
    return legacy


@contextlib.contextmanager
def _with_ieee(operation: Any) -> Iterator[None]:
    before = operation.fp32_precision
    operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        operation.fp32_precision = before


def _fill(x: "torch.Tensor", rows: int) -> "torch.Tensor":
    """Return [rows, …]: black images are added at the end."""
    import torch

    if len(x) == rows:
        return x
    return torch.cat([x, x.new_zeros((rows - len(x), *x.shape[1:]))]).contiguous(memory_format=torch.channels_last)


def _pool(features: "torch.Tensor", features_last: bool) -> "torch.Tensor":
    """Return the mean over space or over tokens, [rows, dims].

    Args:
        features: [rows, dims], [rows, tokens, dims], [rows, dims, height, width] or, with `features_last`,
            [rows, height, width, dims].
        features_last: whether the last dimension is that of the features.
    """
    if features.ndim == 2:
        return features
    return features.flatten(1, -2).mean(1) if features_last or features.ndim == 3 else features.flatten(2).mean(2)
