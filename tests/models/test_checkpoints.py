"""Checkpoints in all their wrappings, moving averages, files that would run code, digests and steps."""

import argparse
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from predboard.cli import main
from predboard.errors import InputError
from predboard.invocation import install_command
from predboard.models import checkpoints, weights
from predboard.models.checkpoints import assign_steps, step_or_zero
from predboard.models.network import Network
from predboard.models.weights import digest_weights
from tests import toy
from tests.models.nets import net

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


def load_weights(module: "torch.nn.Module", file: Path, **options: Any) -> None:
    """As `Factory.build` does it."""
    weights.load(module, checkpoints.read(file, **options), file)


class _Wrapper(torch.nn.Module):
    """A model whose own names begin with a prefix that wrappers use."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.model = net(seed)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model.net."]
)
@pytest.mark.parametrize("path", [(), ("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("own", [net, _Wrapper])
def test_wrapped_checkpoints_load(tmp_path: Path, prefix: str, path: tuple[str, ...], own: Any) -> None:
    trained = own(1)
    stored: Any = {prefix + name: value for name, value in trained.state_dict().items()}
    for key in reversed(path):
        stored = {"epoch": 3, key: stored, "optimizer": {"lr": 0.1}, "best": None}
    torch.save(stored, tmp_path / "c.pt")
    module = own(2)
    assert digest_weights(module) != digest_weights(trained)
    load_weights(module, tmp_path / "c.pt")
    assert digest_weights(module) == digest_weights(trained)


def test_old_containers_and_missing_counters_load(tmp_path: Path) -> None:
    trained = net(1)
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    module = net(2)
    load_weights(module, tmp_path / "old.th")
    assert digest_weights(module) == digest_weights(trained)


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != name}


def _in_itself(_: object) -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    return loop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "fc.bias"), r"belongs to another model: missing fc\.bias$"),
        (lambda s: {**s, "head.weight": s["fc.bias"]}, r"belongs to another model: unknown head\.weight$"),
        (
            lambda s: {**s, "fc.weight": torch.zeros(9, 4)},
            r"belongs to another model: different shape: fc\.weight is \[9, 4\], the model has \[2, 4\]$",
        ),
        (
            lambda s: {"module.a": s["fc.bias"], "module.b": s["fc.bias"]},
            r"missing conv\.weight, conv\.bias, norm\.weight and 5 more; unknown a, b$",
        ),
        (
            lambda s: {"module.fc.bias": s["fc.bias"], "ema.fc.bias": s["fc.bias"]},
            r"missing conv\.weight, conv\.bias, norm\.weight and 4 more$",
        ),
        (lambda _: {"epoch": 3, "lr": 0.1}, r"holds no weights; it has: epoch, lr; expected one of state_dict, "),
        (lambda _: {"state_dict": {"epoch": 3}}, r"holds no weights; it has: epoch; expected"),
        (lambda _: [1, 2], r"holds no weights; it has: 0, 1; expected"),
        (lambda _: 5, r"holds a int; expected a state dict"),
        (
            lambda s: {**s, "fc.weight": s["fc.weight"].int()},
            r"type: fc\.weight is integers, the model has floats",
        ),
        (lambda s: {**s, "fc.weight": s["fc.weight"].to_sparse()}, r"different type: fc\.weight is sparse, the model"),
        (
            lambda s: {**s, "fc.weight": torch.view_as_complex(torch.ones(2, 4, 2)).conj()},
            r"different type: fc\.weight is complex numbers, the model has floats$",
        ),
        (
            lambda s: {**s, "fc.weight": torch.ones(1).expand(10**6, 4000)},
            r"it takes 16\.0 GB of memory, more than",
        ),
        (_in_itself, r"holds mappings inside each other, but no weights 8 levels down"),
        (lambda s: s["fc.bias"], r"holds a Tensor; expected a state dict"),
        (lambda _: {}, r"holds no weights"),
    ],
)
def test_a_checkpoint_of_something_else_is_one_line(tmp_path: Path, change: Any, message: str) -> None:
    torch.save(change(dict(net().state_dict())), tmp_path / "c.pt")
    module = net(2)
    before = digest_weights(module)
    with pytest.raises(InputError, match=message) as raised:
        load_weights(module, tmp_path / "c.pt")
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "c.pt") in str(raised.value)
    assert digest_weights(module) == before


class _Touches:
    """Unpickling it runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"state_dict": net().state_dict(), "callback": _Touches(touched)}, tmp_path / "new.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Touches(touched)))
    torch.save(net(), tmp_path / "whole.pt")
    for name in ("new.pt", "plain.pkl", "whole.pt"):
        with pytest.raises(InputError, match=rf"{name} cannot be read as weights: ") as raised:
            load_weights(net(), tmp_path / name)
        assert "\n" not in str(raised.value)
    assert not touched.exists()
    pickle.loads((tmp_path / "plain.pkl").read_bytes())
    assert touched.exists()  # so it does run where nothing prevents it


def test_a_missing_or_broken_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").touch()
    torch.save(net().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"missing\.pt: \S+ has empty\.pt, half\.pt, text\.pt, …$"):
        load_weights(net(), tmp_path / "missing.pt")
    for name in ("text.pt", "empty.pt", "half.pt"):
        with pytest.raises(InputError, match=rf"{name} cannot be read as weights") as raised:
            load_weights(net(), tmp_path / name)
        assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_code_in_a_checkpoint_does_not_run_from_the_command_line_unless_it_is_trusted(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", each=1)
    model = toy.model_file(tmp_path)
    touched = tmp_path / "touched"
    state = {"head.weight": torch.zeros(3, 3), "head.bias": torch.tensor([0.0, 1.0, 0.0])}
    torch.save({"state_dict": state, "callback": _Touches(touched)}, tmp_path / "evil.pt")
    command = ("infer", "--data", tmp_path / "data", "--model", model, "--checkpoint", tmp_path / "evil.pt")
    done = toy.predboard(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert not touched.exists()
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"predboard: {tmp_path / 'evil.pt'} cannot be read as weights: it holds more than weights (")
    assert last.endswith("unpickling that may run code: if you trust where the file comes from, add --trust-checkpoint")
    assert main.run([*map(str, command), "--trust-checkpoint", "--out", str(tmp_path / "out")]) == 0
    assert touched.exists()  # so it does run where it is asked for


@pytest.mark.parametrize(
    "more",
    [
        argparse.Namespace(lr=0.1, data=Path("x"), sizes=[1, 2]),
        {"best": np.float64(0.5), "epoch": np.int64(3), "done": np.True_, "name": np.str_("a")},
        np.arange(6, dtype=np.float32).reshape(2, 3),
        {1, 2},
    ],
)
def test_what_training_keeps_beside_weights_is_no_code(tmp_path: Path, more: Any) -> None:
    trained = net(1)
    for old in (False, True):
        torch.save(
            {"state_dict": trained.state_dict(), "more": more},
            tmp_path / "c.pt",
            _use_new_zipfile_serialization=not old,
        )
        module = net(2)
        load_weights(module, tmp_path / "c.pt")
        assert digest_weights(module) == digest_weights(trained)


def test_a_whole_module_loads_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_net.py").write_text(
        "import torch\n\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from their_net import Net  # type: ignore[import-not-found]  # written by this test

    trained, folder = Net(), tmp_path / "elsewhere"
    folder.mkdir()
    torch.save({"epoch": 3, "model": trained, "ema": trained}, folder / "whole.pt")
    monkeypatch.undo()
    del sys.modules["their_net"]
    for ema in (False, True):
        module = torch.nn.Linear(2, 2)
        with pytest.raises(InputError, match=r"holds more than weights \(their_net\.Net\)"):
            load_weights(module, folder / "whole.pt", ema=ema)
        load_weights(module, folder / "whole.pt", ema=ema, trust=True, folder=tmp_path)
        assert digest_weights(module) == digest_weights(trained)
    del sys.modules["their_net"]


def test_safetensors_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    trained = net(1)
    save_file({f"module.{k}": v for k, v in trained.state_dict().items()}, tmp_path / "c.safetensors")
    module = net(2)
    load_weights(module, tmp_path / "c.safetensors")
    assert digest_weights(module) == digest_weights(trained)
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(InputError, match=r"checkpoint-500 is a folder without model\.safetensors or pytorch"):
        load_weights(module, tmp_path / "checkpoint-500")
    save_file(trained.state_dict(), tmp_path / "checkpoint-500" / "model.safetensors")
    module = net(2)
    load_weights(module, tmp_path / "checkpoint-500")
    assert digest_weights(module) == digest_weights(trained)
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes()[:500])
    with pytest.raises(InputError, match=r"half\.safetensors cannot be read as weights: SafetensorError: "):
        load_weights(module, tmp_path / "half.safetensors")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        InputError,
        match=f"needs safetensors, which is not installed: {re.escape(install_command(extra='safetensors'))}",
    ):
        load_weights(module, tmp_path / "c.safetensors")


_ONE = torch.ones(1)


def _prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda plain, ema: {"state_dict": plain, "state_dict_ema": ema},  # timm
        lambda plain, ema: {"model": plain, "model_ema": {"module": 1, "state_dict": ema}},
        lambda plain, ema: {"model": plain, "model_ema": _prefixed("module.", ema) | {"n_averaged": torch.tensor(7)}},
        lambda plain, ema: {
            "state_dict": plain,
            "ema_state_dict": _prefixed("module.", ema) | {"steps": torch.ones(1)},
        },
        lambda plain, ema: {"state_dict": plain, "ema": ema, "epoch": 3},
        lambda plain, ema: {"checkpoint": 1, "model": {"ema": ema, "state_dict": plain}},
        lambda plain, ema: _prefixed("net.", plain) | _prefixed("ema_model.", ema) | {"step": torch.tensor(3)},
        lambda _, ema: _prefixed("module.", ema) | {"n_averaged": torch.tensor(7)},  # torch's AveragedModel
    ],
)
def test_a_moving_average_is_taken_where_it_is_asked_for(tmp_path: Path, wrap: Any) -> None:
    plain, ema = net(1), net(2)
    torch.save(wrap(dict(plain.state_dict()), dict(ema.state_dict())), tmp_path / "c.pt")
    module = net(3)
    load_weights(module, tmp_path / "c.pt", ema=True)
    assert digest_weights(module) == digest_weights(ema)


def test_without_the_flag_a_moving_average_is_mentioned_and_left(tmp_path: Path) -> None:
    plain, ema = net(1), net(2)
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": ema.state_dict()}, tmp_path / "c.pt")
    said: list[str] = []
    module = net(3)
    load_weights(module, tmp_path / "c.pt", log=said.append)
    assert digest_weights(module) == digest_weights(plain)
    assert said == ["c.pt also holds a moving average of the weights, which is not used: --ema takes it"]
    averaged = torch.optim.swa_utils.AveragedModel(ema)
    torch.save(averaged.state_dict(), tmp_path / "a.pt")
    load_weights(module, tmp_path / "a.pt", log=said.append)
    assert digest_weights(module) == digest_weights(ema)
    assert len(said) == 1


def test_no_moving_average_is_one_line(tmp_path: Path) -> None:
    torch.save({"state_dict": net().state_dict(), "epoch": 1}, tmp_path / "c.pt")
    with pytest.raises(
        InputError,
        match=r"c\.pt holds no moving average of the weights; it has: state_dict, epoch; --ema expects one of ",
    ):
        load_weights(net(), tmp_path / "c.pt", ema=True)


def test_the_number_of_outputs_is_that_of_the_last_weight_that_does_not_fit() -> None:
    wanted = net().state_dict()
    assert weights.count_outputs(wanted, wanted) is None
    seven = {**wanted, "fc.weight": torch.zeros(7, 4), "fc.bias": torch.zeros(7)}
    assert weights.count_outputs(seven, wanted) == 7
    assert weights.count_outputs(_prefixed("module.", seven), wanted) == 7
    # A table of positions, as of another picture size, is no head; nor is a weight with other inputs.
    assert weights.count_outputs({**wanted, "fc.weight": torch.zeros(7, 5)}, wanted) is None
    assert weights.count_outputs({**wanted, "norm.weight": torch.zeros(9)}, wanted) is None
    assert weights.count_outputs({**wanted, "conv.weight": torch.zeros(9, 3, 3, 3)}, wanted) == 9


# --- digests ---


def test_the_digest_of_weights_changes_with_any_of_them() -> None:
    module = net()
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
    plain = digest_weights(net())
    assert digest_weights(net().to(memory_format=torch.channels_last)) == plain
    assert digest_weights(net().eval().requires_grad_(False)) == plain
    network = Network(net(), torch.device("cpu"), "bf16", False)
    assert digest_weights(network.module) == plain
    half = torch.nn.Linear(2, 2).bfloat16()
    assert digest_weights(half) == digest_weights(half)


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
    with pytest.raises(InputError, match=r"a_epoch1\.pt and b_epoch01\.pt are both step 1: name their steps by --step"):
        assign_steps((Path("a_epoch1.pt"), Path("b_epoch01.pt")), ())


# --- what people save beside the weights, and otherwise ---


def test_the_only_state_dict_is_taken_whatever_its_name(tmp_path: Path) -> None:
    torch.save({"net": net(1).state_dict(), "acc": 0.9, "optimizer": {"lr": 0.1}}, tmp_path / "c.pt")
    module = net(2)
    load_weights(module, tmp_path / "c.pt")
    assert digest_weights(module) == digest_weights(net(1))
    torch.save({"generator": net(1).state_dict(), "critic": net(2).state_dict()}, tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"two\.pt holds several models: generator, critic; save the one"):
        checkpoints.read(tmp_path / "two.pt")


def test_what_training_leaves_behind_is_left_out_with_a_line_and_nothing_else_is(tmp_path: Path) -> None:
    extra = {"total_ops": torch.zeros(1), "conv.total_params": torch.zeros(1), "criterion.weight": torch.zeros(2)}
    extra["ce_loss.weight"] = torch.zeros(2)
    prefixed = {f"model.{name}": value for name, value in net(1).state_dict().items()}
    for state in ({**net(1).state_dict(), **extra}, {**prefixed, **extra}):
        torch.save({"state_dict": state}, tmp_path / "c.pt")
        module, lines = net(2), list[str]()
        weights.load(module, checkpoints.read(tmp_path / "c.pt"), tmp_path / "c.pt", lines.append)
        assert digest_weights(module) == digest_weights(net(1))
        assert lines == [
            "c.pt also holds 4 tensors that the model lacks: total_ops, conv.total_params, criterion.weight and 1 more"
        ]
    torch.save({**net(1).state_dict(), "fc2.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"belongs to another model: unknown fc2\.weight$"):
        load_weights(net(2), tmp_path / "other.pt")


def test_sharded_weights_are_read_by_their_index(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch", reason="writes safetensors").save_file
    state = net(1).state_dict()
    first = dict(list(state.items())[:3])
    rest = dict(list(state.items())[3:])
    save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    parts = {**dict.fromkeys(first, "model-00001-of-00002.safetensors"), **dict.fromkeys(rest, "gone.safetensors")}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    with pytest.raises(InputError, match=r"index\.json names gone\.safetensors, which is not in"):
        checkpoints.read(tmp_path)
    index.write_text(index.read_text().replace("gone", "model-00002-of-00002"))
    for file in (tmp_path, index):
        module = net(2)
        load_weights(module, file)
        assert digest_weights(module) == digest_weights(net(1))
    index.write_text("[]")
    with pytest.raises(InputError, match=r"cannot read .*index\.json as an index of weights: TypeError"):
        checkpoints.read(index)
    index.write_text(json.dumps({"weight_map": {"conv.weight": "part.bin"}}))
    for held, kind in ((3, "int"), ([torch.zeros(2)], "list"), (torch.zeros(2, 2), "Tensor")):
        torch.save(held, tmp_path / "part.bin")
        with pytest.raises(InputError, match=rf"part\.bin holds a {kind}; expected a state dict, as .*index\.json"):
            checkpoints.read(index)


_SHAPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "compiled": lambda s: _prefixed("_orig_mod.", s),
    "compiled inside": lambda s: {"state_dict": _prefixed("model._orig_mod.", s)},
    "parts compiled": lambda s: {k.replace("norm.", "norm._orig_mod."): v for k, v in s.items()},
    "FSDP": lambda s: _prefixed("_fsdp_wrapped_module.", s),
    "a backbone": lambda s: {"state_dict": {**_prefixed("backbone.", s), "projector.weight": torch.ones(3)}},
    "Lightning with metrics": lambda s: {
        "epoch": 1,
        "state_dict": {**_prefixed("model.", s), "val_acc.tp": torch.ones(2), "loss_fn.weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
    },
    "Lightning with an average": lambda s: {
        "state_dict": {**_prefixed("model.", s), **_prefixed("ema_model.", net(3).state_dict())}
    },
    "numbers beside": lambda s: {**s, "epoch": 3, "best": None, "_extra_state": {"a": 1}},
    "arrays": lambda s: {"epoch": 3, "net": {k: v.numpy() for k, v in s.items()}},
    "an optimizer": lambda s: {"model_state": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "groups": []}},
    "a pair": lambda s: (s, 3),
    "an average beside": lambda s: {"params": s, "params_ema": net(3).state_dict()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "all floats": lambda s: {k: v.float() for k, v in s.items()},
}


@pytest.mark.parametrize("shape", _SHAPES)
def test_checkpoints_as_training_saves_them_are_read(tmp_path: Path, shape: str) -> None:
    torch.save(_SHAPES[shape](dict(net(1).state_dict())), tmp_path / "c.pt")
    module = net(2)
    load_weights(module, tmp_path / "c.pt")
    assert digest_weights(module) == digest_weights(net(1))


def test_weights_of_a_larger_model_are_refused(tmp_path: Path) -> None:
    state = _prefixed("model.", net(1).state_dict())
    torch.save({**state, "model.more.weight": torch.ones(3)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"belongs to another model: unknown more\.weight$"):
        load_weights(net(2), tmp_path / "c.pt")
    both = {**_prefixed("student.", net(1).state_dict()), **_prefixed("teacher.", net(2).state_dict())}
    torch.save(both, tmp_path / "c.pt")
    with pytest.raises(InputError, match="belongs to another model"):
        load_weights(net(2), tmp_path / "c.pt")


def test_a_model_that_is_wrapped_already_takes_plain_weights(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "c.pt")
    module = torch.nn.DataParallel(net(2))
    load_weights(module, tmp_path / "c.pt")
    assert digest_weights(module.module) == digest_weights(net(1))


def test_a_damaged_tensor_is_a_line_and_a_bomb_is_refused(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    at = whole.index(b"c/data/0") + 70
    (tmp_path / "c.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    lines: list[str] = []
    checkpoints.read(tmp_path / "c.pt", log=lines.append)
    assert lines == ["warning: c.pt is damaged, or was written without checksums: c/data/0 does not match its own"]
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/data.pkl", bytes(10**7))
    with pytest.raises(InputError, match=r"bomb\.pt: it takes 0\.0 GB of memory, more than --max-read-gb 0\.001"):
        checkpoints.read(tmp_path / "bomb.pt", max_read_gb=0.001)
    with pytest.raises(InputError, match=r"cannot read .*: .*File name too long"):
        checkpoints.read(tmp_path / ("x" * 300 + ".pt"))


def test_weights_are_digested_whatever_a_tensor_is_a_view_of() -> None:
    values = torch.view_as_complex(torch.ones(3, 2))
    module, other = torch.nn.Module(), torch.nn.Module()
    module.register_buffer("c", values.conj())
    other.register_buffer("c", values.conj().resolve_conj())
    assert digest_weights(module) == digest_weights(other)
