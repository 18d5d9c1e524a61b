"""Model files and programs: factories, their arguments, and what is no model."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from predboard import open_predictions
from predboard.cli import main
from predboard.errors import InputError
from predboard.invocation import install_command
from predboard.models.factory import open_factory, require_torch
from predboard.models.network import Network
from predboard.models.weights import digest_weights
from tests import toy
from tests.models.nets import NET, Pooled, model_file, net, program

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def test_a_factory_is_called_with_its_arguments(tmp_path: Path) -> None:
    file = model_file(tmp_path, NET)
    factory = open_factory(f"{file}:Net", {"width": 5, "bias": False})
    assert factory.name == "net.py:Net"
    assert [(n, list(p.shape)) for n, p in factory.build().named_parameters()] == [("fc.weight", [5, 3])]
    assert digest_weights(factory.build()) == digest_weights(factory.build())
    assert factory.code != open_factory(f"{model_file(tmp_path, NET + '#', 'other.py')}:Net", {}).code
    assert factory.code == open_factory(f"{file}:Net", {}).code


@pytest.mark.parametrize(
    ("spec", "args", "message"),
    [
        ("{file}:missing", {}, r"net\.py has no 'missing'; it has: Net, number, broken, leaves, instance, shared"),
        ("{file}:constant", {}, r"'constant' in .*net\.py is a int; expected a function that returns"),
        ("{file}:number", {}, r"net\.py:number returned a int; expected a torch\.nn\.Module"),
        ("{file}:broken", {"a": 1}, r"net\.py:broken raised KeyError: 'no such option'"),
        ("{file}:leaves", {}, r"net\.py:leaves raised SystemExit: usage: net\.py"),
        ("{file}:Net", {"depth": 1}, r"net\.py:Net raised TypeError: .*unexpected keyword argument 'depth'"),
        ("{file}:instance", {"width": 1}, r"is a module, not a function, and takes no --model-args"),
        ("{folder}/nowhere.py:Net", {}, r"no model file .*nowhere\.py"),
        ("{file}", {}, r"expected FILE\.py:FACTORY, for example"),
        ("{file}:", {}, r"expected FILE\.py:FACTORY"),
        ("{file}:a b", {}, r"expected FILE\.py:FACTORY"),
        ("net:Net", {}, r"--model is 'net:Net'; expected FILE\.py:FACTORY"),
    ],
)
def test_a_wrong_factory_is_one_line(tmp_path: Path, spec: str, args: dict[str, Any], message: str) -> None:
    file = model_file(tmp_path, NET)
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
    file = model_file(tmp_path, text)
    with pytest.raises(InputError, match=rf"net\.py does not import: {message}") as raised:
        open_factory(f"{file}:build", {})
    assert "\n" not in str(raised.value)
    assert "predboard_model_net" not in sys.modules


def test_neighbours_of_a_model_file_can_be_imported_early_and_late(tmp_path: Path) -> None:
    model_file(tmp_path, "WIDTH = 6\n", "sizes_of_the_toy.py")
    model_file(tmp_path, "WIDTH = 2\n", "late_sizes_of_the_toy.py")
    file = model_file(
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
    factory = open_factory(f"{model_file(tmp_path, NET)}:{name}", {})
    built = [factory.build() for _ in range(3)]
    with torch.no_grad():
        for value, module in enumerate(built):
            for parameter in module.parameters():
                parameter.fill_(value)
        assert [{float(p.sum() / p.numel()) for p in module.parameters()} for module in built] == [{0}, {1}, {2}]


def test_without_torch_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_torch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=re.escape(install_command(extra="infer"))):
        require_torch()


# --- programs ---


@pytest.mark.slow
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
    file = program(tmp_path / name, kind)
    factory = open_factory(str(file), {})
    assert factory.name == name
    assert re.fullmatch("[0-9a-f]{16}", factory.code)
    network = Network(factory.build(), torch.device("cpu"), "fp32", False)
    assert digest_weights(network.module) == digest_weights(Pooled())
    module = Pooled().eval()
    for count in (1, 3, 4, 5, 9):
        x = torch.rand(count, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        logits, embedding = network(x)
        np.testing.assert_allclose(logits, module(x).detach(), atol=1e-6)
        assert embedding is None
    assert network.rows == rows
    assert network.probe(torch.rand(1, 3, 8, 8))[0].shape == (1, 3)


@pytest.mark.slow
def test_a_program_runs_from_the_command_line_and_takes_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy.pictures(tmp_path / "data", each=3)
    trained = Pooled()
    with torch.no_grad():
        trained.fc.bias.add_(torch.tensor([0.0, 9.0, 0.0]))
    torch.save(trained.state_dict(), tmp_path / "c_epoch2.pt")
    for name in ("net.ts.pt", "net.pt2"):
        program(tmp_path / name, "script" if name.endswith(".pt") else "export of 4")
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
        for step, module in ((0, Pooled()), (2, trained)):
            logits = np.stack(open_predictions(out, step).to_pandas()["logits"].to_list())
            np.testing.assert_allclose(logits, module.eval()(x).detach(), atol=1e-5)


@pytest.mark.slow
def test_what_is_no_program_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no program")
    (tmp_path / "text.pt2").write_text("no program")
    torch.save(net().state_dict(), tmp_path / "weights.pth")
    torch.save(net(), tmp_path / "whole.pt")
    program(tmp_path / "net.ts.pt", "script")
    for name, message in (
        ("missing.pt2", r"there is no model file .*missing\.pt2; expected FILE\.py:FACTORY, or a program"),
        ("text.pt", r"text\.pt cannot be read as weights: "),
        ("text.pt2", r"text\.pt2 cannot be read as a program: "),
        ("weights.pth", r"weights\.pth holds weights, not a program: name it by --checkpoint, and by --model "),
        ("whole.pt", r"it holds more than weights \(torch\.nn\.modules\.container\.Sequential\), .*--trust-checkpoint"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            open_factory(str(tmp_path / name), {}).build()
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"net\.ts\.pt is a program, not a function, and takes no --model-args"):
        open_factory(str(tmp_path / "net.ts.pt"), {"a": 1})
    with pytest.raises(InputError, match=r"net\.ts\.pt is a TorchScript program, not a checkpoint: name it by --model"):
        open_factory(model_file(tmp_path, NET) + ":Net", {}).build(tmp_path / "net.ts.pt")
    built = open_factory(str(tmp_path / "whole.pt"), {}, trust=True).build()
    assert digest_weights(built) == digest_weights(net())


def test_a_program_in_training_mode_or_of_two_inputs_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Pooled().train(), (torch.rand(4, 3, 8, 8),)), tmp_path / "train.pt2")
    with pytest.raises(InputError, match=r"train\.pt2 was exported in training mode: call model\.eval\(\) before"):
        open_factory(str(tmp_path / "train.pt2"), {}).build()

    class Two(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x + y

    torch.export.save(torch.export.export(Two(), (torch.rand(2, 3), torch.rand(2, 3))), tmp_path / "two.pt2")
    with pytest.raises(InputError, match=r"two\.pt2 takes 2 inputs; expected one, of \[rows, channels, height"):
        open_factory(str(tmp_path / "two.pt2"), {}).build()


# --- what a checkpoint needs of its model's file ---


@pytest.mark.slow
def test_a_module_that_a_script_pickled_whole_finds_its_class_in_the_model_file(tmp_path: Path) -> None:
    script = NET + "\ntorch.manual_seed(5)\ntorch.save(Net(), 'whole.pt')\n"
    (tmp_path / "train.py").write_text(script)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, timeout=120)
    factory = open_factory(f"{model_file(tmp_path, NET)}:Net", {}, trust=True)
    before = set(vars(sys.modules["__main__"]))
    built = factory.build(tmp_path / "whole.pt")
    assert digest_weights(built) != digest_weights(factory.build())
    assert set(vars(sys.modules["__main__"])) == before


@pytest.mark.parametrize("precision", ["half", "double"])
def test_models_of_other_precision_run_as_float32_and_say_so(tmp_path: Path, precision: str) -> None:
    file = model_file(tmp_path, NET + f"\ndef other():\n    return Net().{precision}()\n")
    lines: list[str] = []
    built = open_factory(f"{file}:other", {}).build(log=lines.append)
    logits, _ = Network(built, torch.device("cpu"), "fp32", False)(torch.rand(2, 3, 4, 4))
    assert logits.dtype == torch.float32
    assert len(lines) == 1
    assert "run as float32: --precision" in lines[0]


RANDOM = """
import torch
from torch import nn

def plain():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

def seeded():
    torch.manual_seed(1)
    return plain()

def head():
    net = plain()
    net[0].load_state_dict({"weight": torch.ones(4, 6), "bias": torch.zeros(4)})
    return net

def trained():
    net = plain()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    return net

module = plain()
"""


@pytest.mark.parametrize(
    ("name", "random"),
    [
        ("plain", ("0.weight", "0.bias", "2.weight", "2.bias")),
        ("seeded", ("0.weight", "0.bias", "2.weight", "2.bias")),
        ("head", ("2.weight", "2.bias")),
        ("trained", ()),
        ("module", ()),
    ],
)
def test_random_weights_are_named(tmp_path: Path, name: str, random: tuple[str, ...]) -> None:
    seeding = torch.manual_seed
    factory = open_factory(f"{model_file(tmp_path, RANDOM)}:{name}", {})
    assert factory.find_random(factory.build()) == random
    assert torch.manual_seed is seeding
