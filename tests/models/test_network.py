"""What a model may return, embeddings, batches of one size, and models that do not give one label of a list."""

import types
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from predboard.errors import InputError
from predboard.models.factory import open_factory
from predboard.models.network import Network, extract_logits, final_activation
from tests.models.nets import Head, program

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_logits_are_found_in_whatever_a_model_returns() -> None:
    z = torch.arange(6.0).reshape(2, 3)
    aux = torch.zeros(2, 3)
    for output in (
        z,
        (z, aux),
        [z],
        {"logits": z, "aux": aux},
        OrderedDict(aux=aux, logits=z),
        types.SimpleNamespace(logits=z),
    ):
        assert extract_logits(output) is z
    assert extract_logits(z.half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "returned a NoneType without logits"),
        ({"out": 1}, "returned a dict without logits"),
        ((), "returned a tuple without logits"),
        (([1],), "returned a tuple without logits"),
        (torch.zeros(3), r"returned torch\.float32 of shape \[3\]; expected floats of \[rows, classes\]"),
        (torch.zeros(1, 3, 2, 2), r"of shape \[1, 3, 2, 2\]"),
        (torch.zeros(2, 0), r"of shape \[2, 0\]"),
        (torch.zeros(2, 3, dtype=torch.int64), r"returned torch\.int64 of shape \[2, 3\]"),
    ],
)
def test_what_is_no_logits_is_one_line(output: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"the model .*{message}"):
        extract_logits(output)


def test_a_network_gives_logits_and_the_input_of_the_last_linear_layer() -> None:
    torch.manual_seed(0)
    module = Head()
    x = torch.rand(4, 3, 2, 2)
    network = Network(module, torch.device("cpu"), "fp32", True)
    logits, embedding = network(x)
    hidden = (x.flatten(1) @ module.first.weight.T + module.first.bias).clamp(min=0)
    assert embedding is not None
    np.testing.assert_allclose(embedding.detach(), hidden.detach(), atol=1e-6)
    np.testing.assert_allclose(logits.detach(), (hidden @ module.last.weight.T + module.last.bias).detach(), atol=1e-6)
    assert not module.training
    assert Network(Head(), torch.device("cpu"), "fp32", False)(x)[1] is None


class _Constant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, _: Any) -> Any:
        return torch.zeros(1, 3)


def test_embeddings_that_cannot_be_had_are_one_line() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(
        InputError, match="--embeddings stores the input of the last linear layer, and the model has none"
    ):
        Network(torch.nn.Conv2d(3, 2, 1), cpu, "fp32", True)
    with pytest.raises(InputError, match="the model's last one does not see each image once"):
        Network(_Constant(), cpu, "fp32", True)(torch.zeros(1, 3, 2, 2))


def test_as_many_rows_as_pictures_are_expected() -> None:
    network = Network(_Constant(), torch.device("cpu"), "fp32", False)
    with pytest.raises(InputError, match="the model returned 1 rows for 2 images; expected one for each"):
        network(torch.zeros(2, 3, 2, 2))


def test_a_model_that_cannot_take_the_pictures_is_one_line() -> None:
    network = Network(Head(), torch.device("cpu"), "fp32", False)
    with pytest.raises(
        InputError, match=r"the model cannot take images of 3×5×4 \(channels×height×width\): .*--resize"
    ) as raised:
        network(torch.zeros(1, 3, 5, 4))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("no x"), IndexError("list"), ZeroDivisionError("0")])
def test_whatever_a_forward_raises_is_one_line(error: Exception) -> None:
    class Raises(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise error

    network = Network(Raises(), torch.device("cpu"), "fp32", False)
    with pytest.raises(InputError, match=f"cannot take images of 3×5×4 .*: {type(error).__name__}: "):
        network(torch.zeros(1, 3, 5, 4))


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch before 2.9 has one switch alone")
def test_a_program_that_sets_the_newer_switch_of_precision_keeps_it() -> None:
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch's stub lacks it
    seen = []

    class Sees(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(conv.fp32_precision)
            return x.mean((2, 3))

    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]  # the same
    try:
        before = conv.fp32_precision
        Network(Sees(), torch.device("cpu"), "fp32", False)(torch.zeros(1, 3, 2, 2))
        assert (seen, conv.fp32_precision) == (["ieee"], before)
    finally:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]  # the same
    assert torch.backends.cudnn.allow_tf32  # which raises if the two are mixed up


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_used_and_gives_float32_logits(precision: str) -> None:
    torch.manual_seed(0)
    module, x = Head(), torch.rand(8, 3, 2, 2)
    full = Network(module, torch.device("cpu"), "fp32", False)(x)[0]
    half = Network(module, torch.device("cpu"), precision, False)(x)[0]
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < 0.02


def test_a_program_for_other_pictures_is_one_line(tmp_path: Path) -> None:
    for name, kind in (("net.pt2", "export of 4"), ("net.ts.pt", "script")):
        built = open_factory(str(program(tmp_path / name, kind)), {}).build()
        network = Network(built, torch.device("cpu"), "fp32", False)
        with pytest.raises(InputError, match=r"the model cannot take images of 1×8×8 \(channels×height×width\)") as e:
            network(torch.rand(1, 1, 8, 8))
        assert "\n" not in str(e.value)
        with pytest.raises(InputError, match=r"has none \(the layers of a program cannot be seen\)"):
            Network(built, torch.device("cpu"), "fp32", True)


def test_batches_are_brought_to_one_size_where_that_is_wanted() -> None:
    seen = []

    class Sees(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(len(x))
            return x.mean((2, 3))

    network = Network(Sees(), torch.device("cpu"), "fp32", False)
    x = torch.rand(10, 3, 2, 2)
    network(x)
    network.rows = 4
    logits, _ = network(x)
    assert seen == [10, 4, 4, 4]
    np.testing.assert_allclose(logits, x.mean((2, 3)), atol=1e-6)
    embedded = Network(Head(), torch.device("cpu"), "fp32", True)
    whole = embedded(x)
    embedded.rows = 4
    for a, b in zip(whole, embedded(x), strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(a, b, atol=1e-6)


# --- what is not one label of a list ---


class _Ends(torch.nn.Module):
    def __init__(self, end: Any, outputs: int = 2) -> None:
        super().__init__()
        self.head, self.end = torch.nn.Linear(3, outputs), end

    def forward(self, x: Any) -> Any:
        return self.end(self.head(x.mean((2, 3))))


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (torch.nn.Identity(), ""),
        (torch.nn.Sigmoid(), "sigmoid"),
        (torch.sigmoid, "sigmoid"),
        (lambda z: {"logits": torch.sigmoid(z)[:, :, None, None].float()}, "sigmoid"),
        (torch.nn.Softmax(1), "softmax"),
        (lambda z: torch.log_softmax(z, 1).double(), "log_softmax"),
        (lambda z: torch.sigmoid(z) * z, ""),
        (lambda z: torch.sigmoid(z).detach(), ""),
    ],
)
def test_what_a_model_does_last_is_known(end: Any, expected: str) -> None:
    assert final_activation(_Ends(end).eval(), torch.rand(1, 3, 2, 2)) == expected


def test_several_labels_and_a_single_output_of_another_kind_are_refused() -> None:
    x = torch.rand(1, 3, 2, 2)
    for module, message in (
        (
            _Ends(torch.nn.Sigmoid()),
            r"ends in a sigmoid for each class, .*of a fixed list: --task multi-label takes all",
        ),
        (_Ends(torch.nn.Sigmoid(), 1), r"ends in a sigmoid, so it gives probabilities: use --scores probabilities"),
        (_Ends(torch.nn.LogSigmoid(), 1), r"gives log probabilities: use --scores log_probabilities"),
        (_Ends(torch.nn.Softmax(1), 1), r"ends in a softmax, which is the same for every image"),
    ):
        with pytest.raises(InputError, match=message):
            Network(module, torch.device("cpu"), "fp32", False).probe(x)
    logits, dims = Network(_Ends(torch.nn.Softmax(1)), torch.device("cpu"), "fp32", True).probe(x)
    assert (logits.shape, dims) == ((1, 2), 3)


def test_what_the_remedy_for_one_output_says_is_true() -> None:
    z = torch.linspace(-5, 5, 11)[:, None]
    two = torch.softmax(torch.cat([torch.zeros_like(z), z], 1), 1)[:, 1:]
    np.testing.assert_allclose(two, torch.sigmoid(z), rtol=1e-6)


# --- embeddings ---


class _Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(3, 4, 1), act=torch.nn.ReLU()))
        self.norm = torch.nn.LayerNorm(4)
        self.head = torch.nn.Linear(4, 2)
        self.unused = torch.nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.stem(x).permute(0, 2, 3, 1)).flatten(1, 2)).mean(1)


def test_an_embedding_is_the_output_of_the_layer_that_is_named_its_mean_over_space() -> None:
    module, x = _Layers().eval(), torch.rand(5, 3, 2, 6)
    with torch.no_grad():
        stem = module.stem(x)
        norm = module.norm(stem.permute(0, 2, 3, 1))
    for name, expected in (
        ("stem", stem.mean((2, 3))),
        ("stem.conv", module.stem[0](x).mean((2, 3)).detach()),
        ("norm", norm.mean((1, 2))),  # of a layer whose features are the last dimension
        ("head", module(x).detach()),  # tokens
        (True, norm.mean((1, 2))),  # the input of the last linear layer
    ):
        _, embedding = Network(_Layers(), torch.device("cpu"), "fp32", name)(x)
        assert embedding is not None
        np.testing.assert_allclose(embedding, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sten.conv", r"the model has no layer 'sten\.conv' \(--embedding-layer\); it has: stem\.conv, "),
        ("layer4", r"it has: unused, head, norm, stem\.act, stem\.conv, stem$"),
        ("unused", r"layer unused \(--embedding-layer\) does not see each image once: name another"),
    ],
)
def test_a_layer_that_is_not_there_is_one_line_with_those_that_are(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Network(_Layers(), torch.device("cpu"), "fp32", name)(torch.rand(1, 3, 2, 2))


def test_a_module_that_torch_traced_is_put_into_eval_mode() -> None:
    module = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5)).train())
    network = Network(module, torch.device("cpu"), "fp32", embeddings=False)
    x = torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(network(x, 4)[0], x.flatten(1))


def test_a_module_whose_eval_fails_says_so() -> None:
    class Stubborn(torch.nn.Linear):
        def eval(self) -> "Stubborn":
            raise RuntimeError("always in training")

    with pytest.raises(InputError, match=r"cannot be put on cpu in eval mode: RuntimeError: always in training$"):
        Network(Stubborn(2, 2), torch.device("cpu"), "fp32", embeddings=False)


def test_a_model_that_squeezes_its_output_takes_a_single_image_too() -> None:
    class Squeezes(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean((2, 3), keepdim=True).squeeze()

    network = Network(Squeezes(), torch.device("cpu"), "fp32", False)
    x = torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(network(x[:1])[0], network(x)[0][:1])
    assert network.probe(x[:1])[0].shape == (1, 3)
