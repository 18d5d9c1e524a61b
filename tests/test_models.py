"""Model files, checkpoints in all their wrappings, digests, what a model may return, devices."""

import pickle
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline import models
from pipeline.errors import InputError
from pipeline.models import (
    device_of,
    literals,
    load_weights,
    logits_of,
    open_factory,
    step_of,
    steps_of,
    weights_digest,
)

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

# --- steps ---


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("run2_epoch=7-step=1200.ckpt", 1200),
        ("step_000300_epoch_5.pt", 300),
        ("iter-40000_epoch-3.pth", 40000),
        ("iteration_250.pt", 250),
        ("net_epoch03.pt", 3),
        ("Epoch 12.pt", 12),
        ("model.STEP.77.bin", 77),
        ("digits_epoch01.pt", 1),
        ("resnet20-12fca82f.th", 0),
        ("model.pt", 0),
        ("best_epoch.pt", 0),
        ("checkpoint-500.pt", 0),
        ("epoch_7_of_step", 7),
    ],
)
def test_the_step_is_read_from_the_files_name(name: str, step: int) -> None:
    assert step_of(Path("epoch99") / name) == step


def test_steps_are_ascending_and_each_has_one_file() -> None:
    files = tuple(map(Path, ("e_epoch10.pt", "e_epoch9.pt", "e_epoch1.pt")))
    assert list(steps_of(files, ()).items()) == [(1, files[2]), (9, files[1]), (10, files[0])]
    assert list(steps_of(files, (5, 3, 7)).items()) == [(3, files[1]), (5, files[0]), (7, files[2])]
    assert steps_of((), ()) == {0: None}
    assert steps_of((), (8,)) == {8: None}
    with pytest.raises(
        InputError, match=r"a_epoch1\.pt and b_epoch01\.pt are both of step 1: name their steps by --step"
    ):
        steps_of((Path("a_epoch1.pt"), Path("b_epoch01.pt")), ())


# --- factories ---


def _model_file(folder: Path, text: str, name: str = "net.py") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


_NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4, bias=True):
        super().__init__()
        self.fc = torch.nn.Linear(3, width, bias)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))

def number():
    return 7

def broken(**options):
    raise KeyError("no such option")

def leaves():
    raise SystemExit("usage: net.py")

instance = Net()
constant = 3
_shared = Net()

def shared():
    return _shared
"""


def test_a_factory_is_called_with_its_arguments(tmp_path: Path) -> None:
    file = _model_file(tmp_path, _NET)
    factory = open_factory(f"{file}:Net", {"width": 5, "bias": False})
    assert factory.name == "net.py:Net"
    assert [(n, list(p.shape)) for n, p in factory.build().named_parameters()] == [("fc.weight", [5, 3])]
    assert weights_digest(factory.build()) == weights_digest(factory.build())
    assert factory.code != open_factory(f"{_model_file(tmp_path, _NET + '#', 'other.py')}:Net", {}).code
    assert factory.code == open_factory(f"{file}:Net", {}).code


@pytest.mark.parametrize(
    ("spec", "args", "message"),
    [
        ("{file}:missing", {}, r"net\.py has no 'missing'; it has: Net, number, broken, leaves, instance, shared"),
        ("{file}:constant", {}, r"'constant' in .*net\.py is a int; expected a function that returns"),
        ("{file}:number", {}, r"net\.py:number gave a int; expected a torch\.nn\.Module"),
        ("{file}:broken", {"a": 1}, r"net\.py:broken raised KeyError: 'no such option'"),
        ("{file}:leaves", {}, r"net\.py:leaves raised SystemExit: usage: net\.py"),
        ("{file}:Net", {"depth": 1}, r"net\.py:Net raised TypeError: .*unexpected keyword argument 'depth'"),
        ("{file}:instance", {"width": 1}, r"is a module, not a function; it cannot take --model-args"),
        ("{folder}/nowhere.py:Net", {}, r"no model file .*nowhere\.py"),
        ("{file}", {}, r"expected FILE\.py:FACTORY, for example"),
        ("{file}:", {}, r"expected FILE\.py:FACTORY"),
        ("{file}:a b", {}, r"expected FILE\.py:FACTORY"),
        ("net:Net", {}, r"--model is 'net:Net'; expected FILE\.py:FACTORY"),
    ],
)
def test_a_wrong_factory_is_one_line(tmp_path: Path, spec: str, args: dict[str, Any], message: str) -> None:
    file = _model_file(tmp_path, _NET)
    with pytest.raises(InputError, match=message) as raised:
        open_factory(spec.format(file=file, folder=tmp_path), args).build()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package_anywhere", "ModuleNotFoundError: No module named 'no_such_package_anywhere'"),
        ("def f(:\n", "SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two$"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_does_not_import_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = _model_file(tmp_path, text)
    with pytest.raises(InputError, match=rf"net\.py does not import: {message}") as raised:
        open_factory(f"{file}:build", {})
    assert "\n" not in str(raised.value)
    assert "predboard_model_net" not in sys.modules


def test_neighbours_of_a_model_file_can_be_imported_early_and_late(tmp_path: Path) -> None:
    _model_file(tmp_path, "WIDTH = 6\n", "sizes_of_the_toy.py")
    _model_file(tmp_path, "WIDTH = 2\n", "late_sizes_of_the_toy.py")
    file = _model_file(
        tmp_path,
        "import sys\nsys.path.insert(0, '/somewhere')\nimport torch\nfrom sizes_of_the_toy import WIDTH\n"
        "def build():\n    from late_sizes_of_the_toy import WIDTH as late\n    return torch.nn.Linear(WIDTH, late)\n",
    )
    before = list(sys.path)
    assert [list(p.shape) for p in open_factory(f"{file}:build", {}).build().parameters()] == [[2, 6], [2]]
    assert sys.path == ["/somewhere", *before]  # what the file itself asked for, and no more
    sys.path.remove("/somewhere")


@pytest.mark.parametrize("name", ["instance", "shared"])
def test_a_module_that_is_given_twice_is_copied(tmp_path: Path, name: str) -> None:
    factory = open_factory(f"{_model_file(tmp_path, _NET)}:{name}", {})
    built = [factory.build() for _ in range(3)]
    with torch.no_grad():
        for value, module in enumerate(built):
            for parameter in module.parameters():
                parameter.fill_(value)
        assert [{float(p.sum() / p.numel()) for p in module.parameters()} for module in built] == [{0}, {1}, {2}]


def test_arguments_are_read_as_literals() -> None:
    texts = {
        "a": "20",
        "b": "small",
        "c": "[1, 2.5]",
        "d": "None",
        "e": "'20'",
        "f": "",
        "g": "{[1]: 2}",
        "h": "__import__('os')",
        "i": "-1e-3",
        "j": "(1, 'x')",
        "k": "0x10",
        "l": "007",
    }
    assert literals(texts) == {
        "a": 20,
        "b": "small",
        "c": [1, 2.5],
        "d": None,
        "e": "20",
        "f": "",
        "g": "{[1]: 2}",
        "h": "__import__('os')",
        "i": -0.001,
        "j": (1, "x"),
        "k": 16,
        "l": "007",
    }


# --- checkpoints ---


def _net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        OrderedDict(conv=torch.nn.Conv2d(3, 4, 3), norm=torch.nn.BatchNorm2d(4), fc=torch.nn.Linear(4, 2))
    )


class _Wrapper(torch.nn.Module):
    """A model whose own names begin with a prefix that wrappers use."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.model = _net(seed)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model.net."]
)
@pytest.mark.parametrize("path", [(), ("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("own", [_net, _Wrapper])
def test_wrapped_checkpoints_load(tmp_path: Path, prefix: str, path: tuple[str, ...], own: Any) -> None:
    trained = own(1)
    stored: Any = {prefix + name: value for name, value in trained.state_dict().items()}
    for key in reversed(path):
        stored = {"epoch": 3, key: stored, "optimizer": {"lr": 0.1}, "best": None}
    torch.save(stored, tmp_path / "c.pt")
    module = own(2)
    assert weights_digest(module) != weights_digest(trained)
    load_weights(module, tmp_path / "c.pt")
    assert weights_digest(module) == weights_digest(trained)


def test_old_containers_and_missing_counters_load(tmp_path: Path) -> None:
    trained = _net(1)
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    module = _net(2)
    load_weights(module, tmp_path / "old.th")
    assert weights_digest(module) == weights_digest(trained)


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "fc.bias"), r"is of another model: missing fc\.bias$"),
        (lambda s: {**s, "head.weight": s["fc.bias"]}, r"is of another model: unknown head\.weight$"),
        (
            lambda s: {**s, "fc.weight": torch.zeros(9, 4)},
            r"is of another model: of another shape: fc\.weight is \[9, 4\], the model has \[2, 4\]$",
        ),
        (
            lambda s: {"module.a": s["fc.bias"], "module.b": s["fc.bias"]},
            r"missing conv\.weight, conv\.bias, norm\.weight and 5 more; unknown a, b$",
        ),
        (
            lambda s: {"module.fc.bias": s["fc.bias"], "ema.fc.bias": s["fc.bias"]},
            r"unknown module\.fc\.bias, ema\.fc\.bias$",
        ),
        (lambda _: {"epoch": 3, "lr": 0.1}, r"holds no weights; it has: epoch, lr; expected one of state_dict, "),
        (lambda _: {"state_dict": {"epoch": 3}}, r"holds no weights; it has: epoch; expected"),
        (lambda _: [1, 2], r"holds a list; expected a state dict"),
        (lambda s: s["fc.bias"], r"holds a Tensor; expected a state dict"),
        (lambda _: {}, r"holds no weights"),
    ],
)
def test_a_checkpoint_of_something_else_is_one_line(tmp_path: Path, change: Any, message: str) -> None:
    torch.save(change(dict(_net().state_dict())), tmp_path / "c.pt")
    module = _net(2)
    before = weights_digest(module)
    with pytest.raises(InputError, match=message) as raised:
        load_weights(module, tmp_path / "c.pt")
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "c.pt") in str(raised.value)
    assert weights_digest(module) == before


class _Touches:
    """Unpickling it runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"state_dict": _net().state_dict(), "callback": _Touches(touched)}, tmp_path / "new.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Touches(touched)))
    torch.save(_net(), tmp_path / "whole.pt")
    for name in ("new.pt", "plain.pkl", "whole.pt"):
        with pytest.raises(InputError, match=rf"{name} cannot be loaded as weights: ") as raised:
            load_weights(_net(), tmp_path / name)
        assert "\n" not in str(raised.value)
    assert not touched.exists()
    pickle.loads((tmp_path / "plain.pkl").read_bytes())
    assert touched.exists()  # so it does run where nothing prevents it


def test_a_missing_or_broken_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").touch()
    torch.save(_net().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"no checkpoint .*missing\.pt"):
        load_weights(_net(), tmp_path / "missing.pt")
    for name in ("text.pt", "empty.pt", "half.pt"):
        with pytest.raises(InputError, match=rf"{name} cannot be loaded as weights") as raised:
            load_weights(_net(), tmp_path / name)
        assert "\n" not in str(raised.value)


# --- digests ---


def test_the_digest_of_weights_changes_with_any_of_them() -> None:
    module = _net()
    digests = {weights_digest(module)}
    assert re.fullmatch("[0-9a-f]{16}", next(iter(digests)))
    for tensor in module.state_dict().values():
        tensor.view(-1)[-1] += 1
        digests.add(weights_digest(module))
    assert len(digests) == len(module.state_dict()) + 1
    assert weights_digest(module.double()) not in digests
    wide, tall = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 3, bias=False)
    tall.weight = torch.nn.Parameter(wide.weight.detach().reshape(3, 2))  # the same bytes
    assert weights_digest(wide) != weights_digest(tall)
    assert weights_digest(wide) != weights_digest(torch.nn.Sequential(wide))
    empty = [torch.nn.BatchNorm2d(n, affine=False) for n in (0, 1)]
    assert weights_digest(empty[0]) != weights_digest(empty[1])


def test_the_digest_is_that_of_the_weights_wherever_they_lie() -> None:
    plain = weights_digest(_net())
    assert weights_digest(_net().to(memory_format=torch.channels_last)) == plain
    assert weights_digest(_net().eval().requires_grad_(False)) == plain
    network = models.Network(_net(), torch.device("cpu"), "bf16", False)
    assert weights_digest(network.module) == plain
    half = torch.nn.Linear(2, 2).bfloat16()
    assert weights_digest(half) == weights_digest(half)


# --- outputs ---


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
        assert logits_of(output) is z
    assert logits_of(z.half()).dtype == torch.float16


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
        logits_of(output)


class _Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(12, 5)
        self.dropout = torch.nn.Dropout(0.5)
        self.last = torch.nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.dropout(self.first(x.flatten(1)).relu()))


def test_a_network_gives_logits_and_the_input_of_the_last_linear_layer() -> None:
    torch.manual_seed(0)
    module = _Head()
    x = torch.rand(4, 3, 2, 2)
    network = models.Network(module, torch.device("cpu"), "fp32", True)
    logits, embedding = network(x)
    hidden = (x.flatten(1) @ module.first.weight.T + module.first.bias).clamp(min=0)
    assert embedding is not None
    np.testing.assert_allclose(embedding.detach(), hidden.detach(), atol=1e-6)
    np.testing.assert_allclose(logits.detach(), (hidden @ module.last.weight.T + module.last.bias).detach(), atol=1e-6)
    assert not module.training
    assert models.Network(_Head(), torch.device("cpu"), "fp32", False)(x)[1] is None


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
        models.Network(torch.nn.Conv2d(3, 2, 1), cpu, "fp32", True)
    with pytest.raises(InputError, match="the model's last one does not see each picture once"):
        models.Network(_Constant(), cpu, "fp32", True)(torch.zeros(1, 3, 2, 2))


def test_as_many_rows_as_pictures_are_expected() -> None:
    network = models.Network(_Constant(), torch.device("cpu"), "fp32", False)
    with pytest.raises(InputError, match="the model returned 1 rows for 2 pictures; expected one for each"):
        network(torch.zeros(2, 3, 2, 2))


def test_a_model_that_cannot_take_the_pictures_is_one_line() -> None:
    network = models.Network(_Head(), torch.device("cpu"), "fp32", False)
    with pytest.raises(
        InputError, match=r"the model cannot take pictures of 3×5×4 \(channels×height×width\): .*--resize"
    ) as raised:
        network(torch.zeros(1, 3, 5, 4))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_used_and_gives_float32_logits(precision: str) -> None:
    torch.manual_seed(0)
    module, x = _Head(), torch.rand(8, 3, 2, 2)
    full = models.Network(module, torch.device("cpu"), "fp32", False)(x)[0]
    half = models.Network(module, torch.device("cpu"), precision, False)(x)[0]
    assert half.dtype == torch.float32
    assert 0 < float((half - full).abs().max()) < 0.02


def test_bytes_of_a_model_are_those_of_its_parameters_and_buffers() -> None:
    floats = 4 * 3 * 9 + 4 + 4 * 4 + 4 * 2 + 2
    assert models.bytes_of(_net()) == 4 * floats + 8  # and one int64 counter


# --- devices ---


def test_devices_that_are_there() -> None:
    assert device_of("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device_of("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-2", "cpu cpu"])
def test_names_that_are_no_device_are_one_line(name: str) -> None:
    with pytest.raises(InputError, match=rf"--device is '?{re.escape(name)}'?") as raised:
        device_of(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xla"])
def test_devices_that_are_not_there_are_one_line(name: str) -> None:
    with pytest.raises(
        InputError, match=f"--device is {name}, which this machine does not have: use --device auto or cpu"
    ):
        device_of(name)


def test_without_torch_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    models.require_torch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'predboard\[infer\]'"):
        models.require_torch()
