"""Models of torchvision, timm and transformers: the whole command line against each library's own way.

The weights are random, saved as a user would save them; the pictures are real where there are some. Run where the
libraries are installed by `make test-libraries`.
"""

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from predboard import open_predictions
from predboard.cli import main
from predboard.predictions.schema import Run
from tests import toy

torch = pytest.importorskip("torch", reason="stage one runs PyTorch models")

CLASSES = ("airport", "beach", "forest")
NEEDED = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}


def needs(kind: str) -> Any:
    return pytest.importorskip(NEEDED[kind], reason=f"{NEEDED[kind]} is not installed: make test-libraries")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures of many sizes: real ones, cut out and enlarged, where there are some."""
    folder = tmp_path_factory.mktemp("photos")
    sizes = [(320, 240), (241, 333), (500, 375), (64, 64), (31, 47), (259, 257), (300, 1000), (222, 228), (401, 223)]
    archive = toy.SHARED / "eurosat_rgb" / "eurosat_rgb_test5400.zip"
    random = np.random.default_rng(0)
    tiles = [Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)) for _ in sizes]
    if archive.exists():
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if name.endswith(".jpg")][:: 5400 // len(sizes)]
            for i in range(len(sizes)):
                with opened.open(names[i]) as file:
                    tiles[i] = Image.open(file).convert("RGB")
    for i, (tile, size) in enumerate(zip(tiles, sizes, strict=True)):
        inside = folder / CLASSES[i % 3]
        inside.mkdir(exist_ok=True)
        tile.resize(size, Image.Resampling.BICUBIC).save(inside / f"{i}.png")
    return folder


@dataclasses.dataclass(frozen=True)
class Found:
    """What the command made and said."""

    logits: Any
    refs: list[str]
    run: Run
    labels: list[Any]
    said: str


Command = Callable[..., Found]


@pytest.fixture
def command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `predboard infer` on the pictures with these flags."""

    def run(*flags: str | Path, data: Path = photos) -> Found:
        code = main.run(["infer", "--data", str(data), "--out", str(tmp_path / "out"), *map(str, flags)])
        said = capsys.readouterr().err
        assert code == 0, said
        opened = open_predictions(tmp_path / "out")
        frame = opened.to_pandas()
        assert frame["error"].isna().all()
        logits = np.stack(frame["logits"].to_list())
        labels = frame["label"] if "label" in frame else map(list, frame["labels"])
        return Found(logits, list(frame["image"]), opened.run, list(labels), said)

    return run


@pytest.fixture
def refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `predboard infer` with flags that it refuses. -> the one line that says why."""

    def run(*flags: str | Path) -> str:
        code = main.run(["infer", "--data", str(photos), "--out", str(tmp_path / "out"), *map(str, flags)])
        said = capsys.readouterr().err
        assert code == 2, said
        last: str = said.splitlines()[-1]
        assert last.startswith("predboard: ")
        return last

    return run


def expected(photos: Path, refs: list[str], module: Any, prepare: Any) -> Any:
    """Logits by the library's own preprocessing and forward, one picture at a time."""
    rows = []
    with torch.no_grad():
        for ref in refs:
            x = prepare(Image.open(photos / ref).convert("RGB"))
            out = module.eval()(torch.as_tensor(x)[None])
            rows.append(getattr(out, "logits", out)[0].numpy())
    return np.stack(rows)


def lively(module: Any, side: int) -> Any:
    """Random weights whose logits differ by about 1: without training, those of deep networks are all but equal."""
    heads = [m for m in module.modules() if getattr(m, "weight", None) is not None and m.weight.shape[0] == 3]
    torch.manual_seed(2)
    with torch.no_grad():
        heads[-1].weight.normal_()
        out = module.eval()(torch.randn(8, 3, side, side))
        heads[-1].weight /= getattr(out, "logits", out).std(dim=0).mean()
    return module


def agree(logits: Any, wanted: Any) -> None:
    """To 1e-4, where logits of different pictures differ by much more."""
    assert wanted.std(axis=0).max() > 0.1
    np.testing.assert_allclose(logits, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet18", {}),
        ("mobilenet_v3_small", {"weights": "IMAGENET1K_V1"}),
        ("efficientnet_b0", {}),  # bicubic
        ("squeezenet1_1", {}),  # its head is a convolution
    ],
)
def test_torchvision(photos: Path, tmp_path: Path, command: Command, name: str, args: dict[str, Any]) -> None:
    zoo = needs("torchvision").models
    torch.manual_seed(1)
    module = lively(zoo.get_model(name, weights=None, num_classes=3), 64)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "mine.pt")
    entry = zoo.get_model_weights(name)
    weights = entry[args["weights"]] if args else entry.DEFAULT
    more = ["--model-args", *(f"{k}={v}" for k, v in args.items())] if args else []
    found = command("--model", f"torchvision:{name}", "--checkpoint", tmp_path / "mine.pt", "--exact-resize", *more)
    preset = weights.transforms()
    agree(found.logits, expected(photos, found.refs, module, preset))
    assert found.run.classes == CLASSES
    transform = found.run.transform
    assert transform["source"] == f"torchvision {weights}"
    assert (transform["resize"], transform["crop"]) == (preset.resize_size[0], preset.crop_size[0])
    assert (transform["mean"], transform["std"]) == (list(preset.mean), list(preset.std))
    assert transform["interpolation"] == preset.interpolation.value
    assert f"from torchvision {weights}" in found.said


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",  # crop_pct .95, bicubic
        "vit_tiny_patch16_224",  # .9, mean and std .5
        "convnext_atto",
        "mobilenetv3_small_050",  # bilinear or bicubic, as its configuration says
        "tf_efficientnetv2_b0",  # 192 pixels
    ],
)
def test_timm(photos: Path, tmp_path: Path, command: Command, name: str) -> None:
    timm = needs("timm")
    from safetensors.torch import save_file

    torch.manual_seed(1)
    module = timm.create_model(name, num_classes=3)
    module = lively(module, module.pretrained_cfg["input_size"][1])
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, tmp_path / "mine.safetensors")
    config = timm.data.resolve_data_config({}, model=module)
    found = command("--model", f"timm:{name}", "--checkpoint", tmp_path / "mine.safetensors", "--exact-resize")
    prepare = timm.data.create_transform(**config, is_training=False)
    agree(found.logits, expected(photos, found.refs, module, prepare))
    transform = found.run.transform
    assert transform["crop"] == config["input_size"][1]
    assert transform["resize"] == int(config["input_size"][1] / config["crop_pct"])
    assert transform["interpolation"] == config["interpolation"]
    assert transform["source"].startswith(f"timm {name}.")


# --- transformers ---


def _vit(folder: Path, **changes: Any) -> Any:
    """A small ViT and its processor, saved to a folder as training does. -> the model."""
    transformers = needs("hf")
    torch.manual_seed(1)
    names = dict(enumerate(changes.pop("names", ("forest", "airport", "beach"))))
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        id2label=names,
        label2id={name: i for i, name in names.items()},
        problem_type=changes.pop("problem_type", None),
    )
    module = transformers.ViTForImageClassification(config)
    torch.nn.init.normal_(module.classifier.weight, std=0.5)
    module.save_pretrained(folder)
    transformers.ViTImageProcessor(**{"size": {"height": 64, "width": 64}, **changes}).save_pretrained(folder)
    return module


def _processed(folder: Path) -> Any:
    """The library's own preprocessing of a picture."""
    processor = needs("hf").AutoImageProcessor.from_pretrained(folder, backend="pil")
    return lambda picture: processor(images=picture, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize(
    ("changes", "transform"),
    [
        ({}, {"resize": [64, 64], "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}),
        ({"resample": 3, "image_mean": [0.1, 0.2, 0.3]}, {"interpolation": "bicubic", "mean": [0.1, 0.2, 0.3]}),
        ({"do_normalize": False}, {"mean": [0.0], "std": [1.0]}),
        ({"do_rescale": False, "do_normalize": False}, {"mean": [0.0], "std": [1 / 255]}),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, {"mean": [0.5] * 3}),
        ({"resample": 4}, {"function": "transformers ViTImageProcessor of hf:vit", "floats": True}),  # Pillow's box
    ],
)
def test_a_vision_transformer_of_transformers_from_a_folder(
    photos: Path, tmp_path: Path, command: Command, changes: dict[str, Any], transform: dict[str, Any]
) -> None:
    folder = tmp_path / "vit"
    module = _vit(folder, **changes)
    found = command("--model", f"hf:{folder}")
    agree(found.logits, expected(photos, found.refs, module, _processed(folder)))
    written = json.loads(json.dumps(dict(found.run.transform)))
    assert written["source"] == "transformers ViTImageProcessor of hf:vit"
    for name, value in transform.items():
        assert written[name] == (pytest.approx(value) if name in ("mean", "std") else value)
    assert found.run.model == "hf:vit"
    # The names come from the model, in its order, and labels go by name.
    assert found.run.classes == ("forest", "airport", "beach")
    assert [found.run.classes[i] for i in found.labels] == [Path(ref).parent.name for ref in found.refs]
    assert "class names from transformers ViTImageProcessor of hf:vit" in found.said


def test_a_resnet_of_transformers_with_a_crop_and_another_checkpoint(
    photos: Path, tmp_path: Path, command: Command
) -> None:
    transformers = needs("hf")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    folder = tmp_path / "resnet"
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=3)).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 63}, crop_pct=0.75).save_pretrained(folder)
    torch.manual_seed(2)
    trained = lively(transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=3)), 64)
    trained.save_pretrained(tmp_path / "checkpoint-7")
    found = command("--model", f"hf:{folder}", "--checkpoint", tmp_path / "checkpoint-7")
    agree(found.logits, expected(photos, found.refs, trained, _processed(folder)))
    transform = found.run.transform
    assert (transform["resize"], transform["crop"], transform["corner"]) == (84, 63, "floor")
    assert found.run.step == 7
    assert found.run.classes == CLASSES  # LABEL_0 and so on are no names


def test_a_transformer_of_several_labels_names_them_itself(
    photos: Path, tmp_path: Path, command: Command, refused: Callable[..., str]
) -> None:
    folder = tmp_path / "several"
    module = _vit(folder, problem_type="multi_label_classification")
    refs = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.png"))
    names = ("forest", "airport", "beach")
    labels = [[names[i % 3], names[(i + 1) % 3]][: i % 3] for i in range(len(refs))]
    lines = [json.dumps({"image": ref, "labels": of_image}) for ref, of_image in zip(refs, labels, strict=True)]
    (photos / "list.jsonl").write_text("\n".join(lines))
    flags = ("--model", f"hf:{folder}", "--task", "multi-label")
    found = command(*flags, data=photos / "list.jsonl")
    agree(found.logits, expected(photos, found.refs, module, _processed(folder)))
    assert (found.run.classes, found.run.task, found.run.scores) == (names, "multi-label", "logits")
    assert found.labels == [sorted(names.index(name) for name in of_image) for of_image in labels]
    one = tmp_path / "one"
    _vit(one, problem_type="single_label_classification")
    said = refused("--model", f"hf:{one}", "--task", "multi-label", "--data", photos / "list.jsonl")
    assert "is trained to give an image one label (problem_type single_label_classification)" in said
    (photos / "list.jsonl").unlink()


def test_what_transformers_cannot_be_run_for_is_one_line(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = needs("hf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "several"
    _vit(folder, problem_type="multi_label_classification")
    said = refused("--model", f"hf:{folder}")
    assert "an image several labels (problem_type multi_label_classification)" in said
    assert "--task multi-label takes all of them" in said
    for problem in (None, "regression"):
        _vit(tmp_path / "regression", problem_type=problem, names=("score",))
        found = refused("--model", f"hf:{tmp_path / 'regression'}")
        assert f"has num_labels 1 and problem_type {problem}, which transformers trains as regression" in found
    assert f"hf:{tmp_path / 'nowhere'} is neither a folder with a config.json" in refused(
        "--model", f"hf:{tmp_path / 'nowhere'}"
    )
    backbone = tmp_path / "backbone"
    module = _vit(backbone)
    module.vit.save_pretrained(backbone)
    said = refused("--model", f"hf:{backbone}")
    assert f"hf:{backbone} has no trained classifier.bias, classifier.weight, so its head would be random" in said
    assert transformers.__version__


# --- what flags change ---


def test_a_flag_changes_one_thing_and_none_turns_one_off(tmp_path: Path, command: Command) -> None:
    zoo = needs("torchvision").models
    torch.save(zoo.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "mine.pt")
    flags = ("--model", "torchvision:squeezenet1_1", "--checkpoint", tmp_path / "mine.pt", "--overwrite")
    found = command(*flags, "--std", ".5", "--crop", "200")
    source = f"torchvision {zoo.SqueezeNet1_1_Weights.DEFAULT} and --crop, --std"
    assert found.run.transform["source"] == source
    assert (found.run.transform["resize"], found.run.transform["crop"]) == (256, 200)
    assert (found.run.transform["mean"], found.run.transform["std"]) == ([0.485, 0.456, 0.406], [0.5])
    found = command(*flags, "--resize", "96x96", "--crop", "none")
    assert (found.run.transform["resize"], found.run.transform["crop"]) == ([96, 96], None)
    assert "preprocessing: resize 96×96 bilinear, mean 0.485 0.456 0.406, std " in found.said


def test_flags_that_do_not_go_with_a_library_are_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    zoo = needs("torchvision").models
    torch.save(zoo.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "mine.pt")
    flags = ("--model", "torchvision:squeezenet1_1", "--checkpoint", tmp_path / "mine.pt")
    said = refused(*flags, "--resize", "64")
    assert "--resize 64 with --crop 224 would pad images with black" in said
    assert "has 3 numbers (from torchvision SqueezeNet1_1_Weights" in refused(*flags, "--channels", "gray")


# --- names, and weights of the library's own ---


def test_names_that_no_library_has_are_one_line_with_what_is_near(refused: Callable[..., str]) -> None:
    needs("torchvision")
    assert "torchvision has no classifier 'resnet19'; similar names: resnet" in refused(
        "--model", "torchvision:resnet19"
    )
    assert "torchvision:resnet18 has no weights 'V3'; it has: IMAGENET1K_V1" in refused(
        "--model", "torchvision:resnet18", "--model-args", "weights=V3"
    )
    needs("timm")
    assert "timm has no model 'resnet_18'; similar names: resnet" in refused("--model", "timm:resnet_18")
    assert "timm: Invalid pretrained tag (mine) for resnet18." in refused("--model", "timm:resnet18.mine")


def test_weights_that_cannot_be_fetched_are_one_line_and_random_ones_are_seeded(
    tmp_path: Path, command: Command, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = needs("torchvision").models
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub.urlopen", _no_network)
    said = refused("--model", "torchvision:squeezenet1_1")
    assert (
        "cannot load the pretrained weights of torchvision:squeezenet1_1 (URLError: <urlopen error no network>)" in said
    )
    assert said.endswith("give --checkpoint FILE, or use random weights by --model-args pretrained=False")
    flags = ("--model", "torchvision:squeezenet1_1", "--model-args", "pretrained=False", "num_classes=3")
    first = command(*flags)
    again = command(*flags, "--overwrite")
    np.testing.assert_array_equal(first.logits, again.logits)
    assert dict(first.run.model_args) == {"pretrained": False, "num_classes": 3}
    assert zoo is not None


def _no_network(*_: Any, **__: Any) -> Any:
    raise URLError("no network")


def test_pretrained_names_are_the_librarys(tmp_path: Path, command: Command) -> None:
    needs("torchvision")
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (300, 260), "green").save(flat / "1.png")
    found = command("--model", "torchvision:squeezenet1_1", "--model-args", "pretrained=False", data=flat)
    assert found.run.classes[:3] == ("tench", "goldfish", "great white shark")
    assert len(found.run.classes) == 1000
