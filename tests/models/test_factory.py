"""Model files and programs, digests, what a model may return, embeddings, devices."""

import re
import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from predboard import open_predictions
from predboard.cli import main
from predboard.errors import InputError
from predboard.models import factory as models
from predboard.models.factory import (
    assign_steps,
    digest_weights,
    extract_logits,
    open_factory,
    parse_device,
    parse_literals,
    step_or_zero,
)

from tests import toy

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
        ("checkpoint-500", 500),
        ("epoch_7_of_step", 7),
    ],
)
def test_the_step_is_read_from_the_files_name(name: str, step: int) -> None:
    assert step_or_zero(Path("epoch99") / name) == step


def test_steps_are_ascending_and_each_has_one_file() -> None:
    files = tuple(map(Path, ("e_epoch10.pt", "e_epoch9.pt", "e_epoch1.pt")))
    assert list(assign_steps(files, ()).items()) == [(1, files[2]), (9, files[1]), (10, files[0])]
    assert list(assign_steps(files, (5, 3, 7)).items()) == [(3, files[1]), (5, files[0]), (7, files[2])]
    assert assign_steps((), ()) == {0: None}
    assert assign_steps((), (8,)) == {8: None}
    with pytest.raises(
        InputError, match=r"a_epoch1\.pt and b_epoch01\.pt are both of step 1: name their steps by --step"
    ):
        assign_steps((Path("a_epoch1.pt"), Path("b_epoch01.pt")), ())


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
    assert digest_weights(factory.build()) == digest_weights(factory.build())
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
    assert parse_literals(texts) == {
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


# --- digests ---


def _net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        OrderedDict(conv=torch.nn.Conv2d(3, 4, 3), norm=torch.nn.BatchNorm2d(4), fc=torch.nn.Linear(4, 2))
    )


def test_the_digest_of_weights_changes_with_any_of_them() -> None:
    module = _net()
    digests = {digest_weights(module)}
    assert re.fullmatch("[0-9a-f]{16}", next(iter(digests)))
    for tensor in module.state_dict().values():
        tensor.view(-1)[-1] += 1
        digests.add(digest_weights(module))
    assert len(digests) == len(module.state_dict()) + 1
    assert digest_weights(module.double()) not in digests
    wide, tall = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 3, bias=False)
    tall.weight = torch.nn.Parameter(wide.weight.detach().reshape(3, 2))  # the same bytes
    assert digest_weights(wide) != digest_weights(tall)
    assert digest_weights(wide) != digest_weights(torch.nn.Sequential(wide))
    empty = [torch.nn.BatchNorm2d(n, affine=False) for n in (0, 1)]
    assert digest_weights(empty[0]) != digest_weights(empty[1])


def test_the_digest_is_that_of_the_weights_wherever_they_lie() -> None:
    plain = digest_weights(_net())
    assert digest_weights(_net().to(memory_format=torch.channels_last)) == plain
    assert digest_weights(_net().eval().requires_grad_(False)) == plain
    network = models.Network(_net(), torch.device("cpu"), "bf16", False)
    assert digest_weights(network.module) == plain
    half = torch.nn.Linear(2, 2).bfloat16()
    assert digest_weights(half) == digest_weights(half)


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


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("no x"), IndexError("list"), ZeroDivisionError("0")])
def test_whatever_a_forward_raises_is_one_line(error: Exception) -> None:
    class Raises(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise error

    network = models.Network(Raises(), torch.device("cpu"), "fp32", False)
    with pytest.raises(InputError, match=f"cannot take pictures of 3×5×4 .*: {type(error).__name__}: "):
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
        models.Network(Sees(), torch.device("cpu"), "fp32", False)(torch.zeros(1, 3, 2, 2))
        assert (seen, conv.fp32_precision) == (["ieee"], before)
    finally:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]  # the same
    assert torch.backends.cudnn.allow_tf32  # which raises if the two are mixed up


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
    assert models.module_bytes(_net()) == 4 * floats + 8  # and one int64 counter


# --- programs ---


class _Pooled(torch.nn.Module):
    def __init__(self, classes: int = 3, rows: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.drop = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(4, classes)
        self.rows = rows

    def forward(self, x: Any) -> Any:
        pooled = self.drop(self.conv(x).relu().mean((2, 3)))
        return self.fc(pooled if self.rows is None else pooled.reshape(self.rows, 4))


def _traced(module: torch.nn.Module, rows: int, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        traced = torch.jit.trace(module.eval(), torch.rand(rows, 3, 8, 8))  # type: ignore[no-untyped-call]  # torch's own lack
        torch.jit.save(traced, file)
    return file


def _program(file: Path, kind: str) -> Path:
    if kind.startswith("script"):
        return _traced(_Pooled(rows=4) if kind.endswith("of 4") else _Pooled(), 4, file)
    dynamic = None if kind.endswith("of 4") else ({0: torch.export.Dim("rows", min=1, max=None)},)
    module = _Pooled().eval()
    torch.export.save(torch.export.export(module, (torch.rand(4, 3, 8, 8),), dynamic_shapes=dynamic), file)
    return file


@pytest.mark.parametrize(
    ("kind", "name", "rows"),
    [
        ("export", "net.pt2", None),
        ("export of 4", "net.pt2", 4),
        ("script", "net.ts.pt", None),
        ("script", "net.torchscript", None),
        ("script of 4", "net.pt", 4),
    ],
)
def test_programs_take_any_number_of_pictures(tmp_path: Path, kind: str, name: str, rows: int | None) -> None:
    file = _program(tmp_path / name, kind)
    factory = open_factory(str(file), {})
    assert factory.name == name
    assert re.fullmatch("[0-9a-f]{16}", factory.code)
    network = models.Network(factory.build(), torch.device("cpu"), "fp32", False)
    assert digest_weights(network.module) == digest_weights(_Pooled())
    module = _Pooled().eval()
    for count in (1, 3, 4, 5, 9):
        x = torch.rand(count, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        logits, embedding = network(x)
        np.testing.assert_allclose(logits, module(x).detach(), atol=1e-6)
        assert embedding is None
    assert network.rows == rows
    assert network.probe(torch.rand(1, 3, 8, 8))[0].shape == (1, 3)


def test_a_program_runs_from_the_command_line_and_takes_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy.pictures(tmp_path / "data", each=3)
    trained = _Pooled()
    with torch.no_grad():
        trained.fc.bias.add_(torch.tensor([0.0, 9.0, 0.0]))
    torch.save(trained.state_dict(), tmp_path / "c_epoch2.pt")
    for name in ("net.ts.pt", "net.pt2"):
        _program(tmp_path / name, "script" if name.endswith(".pt") else "export of 4")
        command = ["infer", "--data", "data", "--model", str(tmp_path / name)]
        assert main.run(command) == 0
        # In a process of its own nothing that this test imported helps to load it.
        done = toy.predboard(*command, "--checkpoint", tmp_path / "c_epoch2.pt", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        out = tmp_path / "predictions" / f"data-{name.rpartition('.')[0]}"
        opened = open_predictions(out)
        assert opened.steps == (0, 2)
        pictures = np.stack([np.asarray(Image.open(tmp_path / "data" / f)) for f in opened.to_pandas()["image"]])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
        for step, module in ((0, _Pooled()), (2, trained)):
            logits = np.stack(open_predictions(out, step).to_pandas()["logits"].to_list())
            np.testing.assert_allclose(logits, module.eval()(x).detach(), atol=1e-5)


def test_what_is_no_program_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no program")
    (tmp_path / "text.pt2").write_text("no program")
    torch.save(_net().state_dict(), tmp_path / "weights.pth")
    torch.save(_net(), tmp_path / "whole.pt")
    _program(tmp_path / "net.ts.pt", "script")
    for name, message in (
        ("missing.pt2", r"no model file .*missing\.pt2; expected FILE\.py:FACTORY, or a program"),
        ("text.pt", r"text\.pt cannot be loaded as weights: "),
        ("text.pt2", r"text\.pt2 cannot be read as a program: "),
        ("weights.pth", r"weights\.pth holds weights, not a program: name it as --checkpoint, and as --model "),
        ("whole.pt", r"it holds more than weights \(torch\.nn\.modules\.container\.Sequential\), .*--trust-checkpoint"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            open_factory(str(tmp_path / name), {}).build()
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"net\.ts\.pt is a program, not a function; it cannot take --model-args"):
        open_factory(str(tmp_path / "net.ts.pt"), {"a": 1})
    with pytest.raises(InputError, match=r"net\.ts\.pt is a TorchScript program, not a checkpoint: name it as --model"):
        open_factory(_model_file(tmp_path, _NET) + ":Net", {}).build(tmp_path / "net.ts.pt")
    built = open_factory(str(tmp_path / "whole.pt"), {}, trust=True).build()
    assert digest_weights(built) == digest_weights(_net())


def test_a_program_in_training_mode_or_of_two_inputs_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(_Pooled().train(), (torch.rand(4, 3, 8, 8),)), tmp_path / "train.pt2")
    with pytest.raises(InputError, match=r"train\.pt2 was exported in training mode: call model\.eval\(\) before"):
        open_factory(str(tmp_path / "train.pt2"), {}).build()

    class Two(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x + y

    torch.export.save(torch.export.export(Two(), (torch.rand(2, 3), torch.rand(2, 3))), tmp_path / "two.pt2")
    with pytest.raises(InputError, match=r"two\.pt2 takes 2 inputs; expected one, of \[rows, channels, height"):
        open_factory(str(tmp_path / "two.pt2"), {}).build()


def test_a_program_for_other_pictures_is_one_line(tmp_path: Path) -> None:
    for name, kind in (("net.pt2", "export of 4"), ("net.ts.pt", "script")):
        built = open_factory(str(_program(tmp_path / name, kind)), {}).build()
        network = models.Network(built, torch.device("cpu"), "fp32", False)
        with pytest.raises(InputError, match=r"the model cannot take pictures of 1×8×8 \(channels×height×width\)") as e:
            network(torch.rand(1, 1, 8, 8))
        assert "\n" not in str(e.value)
        with pytest.raises(InputError, match=r"has none \(the layers of a program cannot be seen\)"):
            models.Network(built, torch.device("cpu"), "fp32", True)


def test_batches_are_brought_to_one_size_where_that_is_wanted() -> None:
    seen = []

    class Sees(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(len(x))
            return x.mean((2, 3))

    network = models.Network(Sees(), torch.device("cpu"), "fp32", False)
    x = torch.rand(10, 3, 2, 2)
    network(x)
    network.rows = 4
    logits, _ = network(x)
    assert seen == [10, 4, 4, 4]
    np.testing.assert_allclose(logits, x.mean((2, 3)), atol=1e-6)
    embedded = models.Network(_Head(), torch.device("cpu"), "fp32", True)
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
    assert models.final_activation(_Ends(end).eval(), torch.rand(1, 3, 2, 2)) == expected


def test_several_labels_and_one_output_are_refused() -> None:
    x = torch.rand(1, 3, 2, 2)
    for module, message in (
        (_Ends(torch.nn.Sigmoid()), r"ends in a sigmoid for each class, .*expected one label of a fixed list"),
        (_Ends(torch.nn.Identity(), 1), r"the model gives one output; expected one for each class\. .* z\], 1\)"),
        (_Ends(torch.nn.Sigmoid(), 1), r"the model gives one output"),
    ):
        with pytest.raises(InputError, match=message):
            models.Network(module, torch.device("cpu"), "fp32", False).probe(x)
    logits, dims = models.Network(_Ends(torch.nn.Softmax(1)), torch.device("cpu"), "fp32", True).probe(x)
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
        _, embedding = models.Network(_Layers(), torch.device("cpu"), "fp32", name)(x)
        assert embedding is not None
        np.testing.assert_allclose(embedding, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sten.conv", r"--embedding-layer is 'sten\.conv', which the model has not; it has: stem\.conv, "),
        ("layer4", r"it has: unused, head, norm, stem\.act, stem\.conv, stem$"),
        ("unused", r"--embedding-layer: unused does not see each picture once; name another layer"),
    ],
)
def test_a_layer_that_is_not_there_is_one_line_with_those_that_are(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.Network(_Layers(), torch.device("cpu"), "fp32", name)(torch.rand(1, 3, 2, 2))


# --- devices ---


def test_devices_that_are_there() -> None:
    assert parse_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert parse_device("auto").type == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-2", "cpu cpu"])
def test_names_that_are_no_device_are_one_line(name: str) -> None:
    with pytest.raises(InputError, match=rf"--device is '?{re.escape(name)}'?") as raised:
        parse_device(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["cuda:99", "meta", "xla"])
def test_devices_that_are_not_there_are_one_line(name: str) -> None:
    with pytest.raises(
        InputError, match=f"--device is {name}, which this machine does not have: use --device auto or cpu"
    ):
        parse_device(name)


def test_without_torch_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    models.require_torch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'predboard\[infer\]'"):
        models.require_torch()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_devices_memory_that_is_not_enough_is_told_from_other_errors(error: Exception, found: bool) -> None:
    assert models.is_out_of_memory(error) is found


def test_several_devices_are_separated_by_commas() -> None:
    assert models.parse_devices("cpu, cpu") == (torch.device("cpu"),) * 2
    assert models.parse_devices("cpu") == (torch.device("cpu"),)


def test_a_module_that_torch_traced_is_put_into_eval_mode() -> None:
    module = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5)).train())
    network = models.Network(module, torch.device("cpu"), "fp32", embeddings=False)
    x = torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(network(x, 4)[0], x.flatten(1))


def test_a_module_whose_eval_fails_says_so() -> None:
    class Stubborn(torch.nn.Linear):
        def eval(self) -> "Stubborn":
            raise RuntimeError("always in training")

    with pytest.raises(RuntimeError, match="always in training"):
        models.Network(Stubborn(2, 2), torch.device("cpu"), "fp32", embeddings=False)
