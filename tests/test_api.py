"""Objects of a running program: the model comes back as it was, epochs are steps, and the documented loop runs."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import predboard
from predboard import InferConfig, InputError, VisualizeConfig, open_predictions
from predboard.storage.runs import open_step, preflight_path
from tests import toy

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Tiles:
    """Ready floats of two bands, whose mean in the first band says the class."""

    classes = ("low", "high")

    def __init__(self, rows: int = 24) -> None:
        random = np.random.default_rng(0)
        self.label = np.arange(rows) % 2
        self.x = random.normal(self.label[:, None, None, None], 1, (rows, 2, 6, 6)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(self.x[index]), int(self.label[index])


def _model(seed: int = 0) -> "torch.nn.Sequential":
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(4 * 36, 2),
    )


def _any(wrong: object) -> Any:
    return wrong


def _epoch(model: "torch.nn.Module", optimizer: Any, data: Tiles) -> None:
    model.train()
    for start in range(0, len(data), 8):
        optimizer.zero_grad()
        x, y = torch.from_numpy(data.x[start : start + 8]), torch.from_numpy(data.label[start : start + 8])
        torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()


def _train(out: Path | None, epochs: int = 3, **options: Any) -> "torch.nn.Module":
    model, data = _model(), Tiles()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(epochs):
        _epoch(model, optimizer, data)
        if out is not None:
            predboard.infer(model, data, out, step=epoch, **options)
    return model


def _logits(out: Path, step: int) -> Any:
    return np.stack(open_predictions(out, step).to_pandas()["logits"].to_list())


@pytest.mark.slow
def test_epochs_are_steps_and_training_goes_on_to_the_last_bit_as_without(tmp_path: Path) -> None:
    alone = _train(None)
    watched = _train(tmp_path / "run", embeddings=True, batch_size=7, shard_size=10)
    for (name, expected), found in zip(alone.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    opened = open_predictions(tmp_path / "run")
    assert opened.steps == (0, 1, 2)
    assert len({open_step(tmp_path / "run", step).run.weights for step in opened.steps}) == 3  # type: ignore[union-attr]
    assert opened.run.model == "Sequential"
    assert opened.run.classes == ("low", "high")
    assert opened.run.transform["dataset"] == "Tiles"
    alone.eval()
    data = Tiles()
    with torch.no_grad():
        expected = alone(torch.from_numpy(data.x)).numpy()
    np.testing.assert_allclose(_logits(tmp_path / "run", 2), expected, rtol=1e-5, atol=1e-5)
    assert opened.to_pandas()["label"].tolist() == data.label.tolist()
    assert opened.to_pandas()["image"][5] == "Tiles#5"


def _state(model: "torch.nn.Module") -> list[Any]:
    """All that could be seen to differ."""
    tensors = [*model.parameters(), *model.buffers()]
    return [
        [part.training for part in model.modules()],
        [[len(part._forward_hooks), len(part._forward_pre_hooks)] for part in model.modules()],
        [(t.data_ptr(), t.stride(), t.device, t.dtype, t.requires_grad, t._version >= 0) for t in tensors],
        [None if p.grad is None else (p.grad.data_ptr(), p.grad.stride(), p.grad.sum().item()) for p in tensors],
        [id(t) for t in tensors],
        torch.get_rng_state().sum().item(),
        torch.is_grad_enabled(),
        torch.backends.cudnn.allow_tf32,
    ]


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_the_model_is_as_before_whatever_happens(tmp_path: Path, layout: str) -> None:
    model = _model().to(memory_format=getattr(torch, layout))  # type: ignore[call-overload]  # torch's stub lacks it
    model[1].eval()  # frozen statistics, as in fine-tuning
    model[5].weight.requires_grad_(False)
    model.register_buffer("extra", torch.zeros(2, 3, 4, 5))
    model[5].register_forward_hook(lambda *_: None)
    model(torch.from_numpy(Tiles().x)).sum().backward()
    other = _model(1)
    before = _state(model)
    predboard.infer(model, Tiles(), tmp_path / "run", embeddings=True)
    assert _state(model) == before
    with pytest.raises(InputError, match="another weights"):
        predboard.infer(other, Tiles(), tmp_path / "run", embeddings=True)
    with pytest.raises(InputError, match="cannot take images"):
        predboard.infer(model, [(torch.zeros(3, 6, 6), 0)], tmp_path / "other")
    assert _state(model) == before


class Caching(torch.nn.Module):
    """Keeps a tensor that a forward pass made, as models with position codes do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        self.codes: dict[int, torch.Tensor] = {}

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        if len(x) not in self.codes:
            self.codes[len(x)] = torch.ones(x.shape[1], device=x.device)
        out: torch.Tensor = self.head(x.mean((2, 3))) * self.codes[len(x)]
        return out


def test_a_model_that_keeps_tensors_can_still_be_trained(tmp_path: Path) -> None:
    model = Caching()
    predboard.infer(model, Tiles(), tmp_path / "run")
    assert len(Tiles()) in model.codes
    model(torch.from_numpy(Tiles().x)).sum().backward()
    assert model.head.weight.grad is not None


def test_the_same_step_again_is_kept_refused_or_overwritten(tmp_path: Path) -> None:
    run, data, model = tmp_path / "run", Tiles(), _model()
    assert predboard.infer(model, data, run, step=4).written == 24
    assert predboard.infer(model, data, run, step=4).written == 0
    other = copy.deepcopy(model)
    with torch.no_grad():
        list(other.parameters())[-1].add_(1)
    with pytest.raises(InputError) as raised:
        predboard.infer(other, data, run, step=4)
    was = r"step 4 was made with another weights \(\w{16}, now \w{16}\): "
    assert re.search(
        was + "name another out=, or another step=, or replace this step with overwrite=True$", str(raised.value)
    )
    assert predboard.infer(other, data, run, step=4, overwrite=True).written == 24
    np.testing.assert_allclose(_logits(run, 4)[0], model.eval()(data[0][0][None])[0].detach() + 1, rtol=1e-4, atol=1e-4)


def test_files_and_other_classes_work_too(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", each=2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    done = predboard.infer(model, tmp_path / "data", tmp_path / "run", mean=(0.5,), batch_size=4)
    assert (done.written, open_predictions(done.out).run.classes) == (6, ("a", "b", "c"))
    done = predboard.infer(model, str(tmp_path / "data"), tmp_path / "named", classes=("c", "a", "x"), limit=5)
    assert (done.written, open_predictions(done.out).run.classes) == (5, ("c", "a", "x"))
    (written,) = predboard.visualize(done.out, tmp_path / "logs", panels=("glance",))
    assert written.run == "named"
    assert [w.run for w in predboard.visualize([tmp_path / "run", str(done.out)], logdir=str(tmp_path / "both"))] == [
        "run",
        "named",
    ]
    (again,) = predboard.visualize(VisualizeConfig((done.out,), tmp_path / "logs", panels=("glance",)))
    assert again.unchanged


def test_predictions_are_imported_by_keywords_and_patterns(tmp_path: Path) -> None:
    logits, label = toy.table(toy.RUN, 20)
    for step in (1, 2):
        np.savez(tmp_path / f"net_epoch{step}.npz", logits=logits * step, labels=label)
    done = predboard.import_predictions(tmp_path / "net_epoch*.npz", scores="logits", out=tmp_path / "out")
    assert list(done.steps) == [1, 2]
    rule = {"metric": "accuracy", "min": np.float32(0)}
    assert predboard.gate(tmp_path / "out", [rule]).outcome == "pass"


def test_the_module_inside_is_taken_of_a_distributed_one(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        model = _model()
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        predboard.infer(wrapped, Tiles(), tmp_path / "run")
        assert predboard.infer(model, Tiles(), tmp_path / "run").written == 0
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda out: predboard.infer(_model(), Tiles(), out, batchsize=3),
            "infer has no option 'batchsize'; did you mean 'batch_size'",
        ),
        (lambda out: predboard.infer(_model(), Tiles(), out, checkpoint=()), "infer has no option 'checkpoint'"),
        (lambda out: predboard.infer(_model(), Tiles(), out, batch_size=0), "^batch_size= is 0; expected"),
        (lambda out: predboard.infer(_model(), [], out), "list is empty"),
        (lambda out: predboard.infer(_model(), _any(iter([])), out), "is a list_iterator; expected a map-style"),
        (lambda out: predboard.infer(_any("net"), Tiles(), out), r"model is a str; expected a torch\.nn\.Module"),
        (lambda out: predboard.infer(_model(), Tiles(), out, step=-1), "^step= is -1"),
        (lambda out: predboard.infer(_model(), Tiles(), out, classes=("a",)), "has 1 class .* the model gives 2"),
        (lambda out: predboard.visualize(out, logs="x"), "visualize has no option 'logs'; expected one of"),
        (lambda out: predboard.visualize(out, logdirr="x"), "'logdirr'; did you mean 'logdir'"),
        (lambda out: predboard.import_predictions("x.npy", _any("logit"), out), "logit"),
        (lambda out: predboard.visualize(out, panels=("no",)), "no"),
    ],
)
def test_what_cannot_work_is_one_line_in_names_of_python(tmp_path: Path, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        call(tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert "--" not in str(raised.value)


def test_a_command_in_a_message_stays_one(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^cannot read .*; `predboard gate RUN --suggest > .*no\.toml` writes a first"
    ):
        predboard.gate(tmp_path, tmp_path / "no.toml")


def test_configurations_are_taken_as_the_command_does(tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data", each=2)
    said: list[str] = []
    config = InferConfig(str(tmp_path / "data"), toy.model_file(tmp_path), out=tmp_path / "run")
    done = predboard.infer(config, said.append)
    assert said
    assert done.written == 6
    with pytest.raises(InputError, match="--batch-size"):
        predboard.infer(InferConfig("data", "net.py:Net", batch_size=0))


def test_warnings_are_printed_where_nobody_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = Tiles(64), _model()
    with torch.no_grad():
        list(model.parameters())[-2].zero_()  # gives one class to every image
    predboard.infer(model, data, tmp_path / "run")
    printed = capsys.readouterr()
    assert re.search(r"^predboard: warning: .*", printed.err, re.MULTILINE)
    assert all(line.startswith("predboard: warning") for line in printed.err.splitlines())
    predboard.infer(model, data, tmp_path / "other", log=lambda _: None)
    assert capsys.readouterr().err == ""


def test_functions_take_lists_and_single_values(tmp_path: Path) -> None:
    for name in ("old", "new"):
        predboard.infer(_model(), Tiles(), tmp_path / name)
    assert predboard.compare([tmp_path / "old", tmp_path / "new"], logdir=str(tmp_path / "logs")).name == "new vs old"
    rule = {"metric": "accuracy", "min": 0.0}
    assert predboard.gate(str(tmp_path / "old"), rule, baseline=None).outcome == "pass"
    assert predboard.visualize(tmp_path / "old", str(tmp_path / "logs"), panels="glance", image_root=None)
    some = predboard.open_predictions(tmp_path / "old", columns="label").to_pandas()
    assert (list(some.columns), len(some)) == (["label"], 24)
    calls: list[tuple[Any, str]] = [
        (
            lambda: predboard.open_predictions(tmp_path / "old", columns=["labl"]),
            "no column 'labl'; did you mean",
        ),
        (lambda: predboard.open_predictions(tmp_path / "old", step=_any([0])), r"no step \[0\]; expected one of 0"),
        (lambda: predboard.gate(tmp_path / "old", _any(3)), "rules are 3; expected a TOML file"),
        (lambda: predboard.import_predictions("x.npz", _any(None)), "scores= is None; expected logits, prob"),
    ]
    for call, message in calls:
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match="out is None; expected a folder"):
        predboard.infer(_model(), Tiles(), _any(None))


@pytest.mark.slow
def test_the_training_loop_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (toy.ROOT / "docs/training_loop.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "loop.py", "exec"), {"__name__": "__main__"})
    opened = open_predictions(tmp_path / "predictions/stripes")
    assert opened.steps == (1, 2, 3)
    assert opened.run.classes == ("across", "down", "diagonal")
    frame = opened.to_pandas()
    wrong = frame[frame["predicted"] != frame["label"]].sort_values("loss", ascending=False)
    assert len(wrong) < 20
    assert set(wrong["id"][:5]) <= set(range(7, 200, 20))
    (events,) = (tmp_path / "logs/stripes").glob("events*")
    tags = {tag for tag, step in toy.read_values(events) if step == 3}
    assert {"1_glance/report_card", "2_mistakes/confident"} <= tags


def test_only_the_first_epoch_has_a_preflight_unless_it_is_asked_for(tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    for epoch, expected in ((0, [0]), (1, [0]), (2, [0, 2])):
        options |= {"preflight": 8} if epoch == 2 else {}
        predboard.infer(_model(epoch), Tiles(), tmp_path / "run", step=epoch, **options)
        found = [step for step in range(3) if preflight_path(tmp_path / "run", step, ".json").exists()]
        assert found == expected
