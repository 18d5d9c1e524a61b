"""The loops that people run instead of stage one, each as a program of its own; it knows nothing of predboard.

    python -m benchmarks.peer_loops timm|torchvision|plain|parts DATA MODEL CHECKPOINT OUT

Each writes the logits of all images beside their names, as predboard does, into the Parquet file OUT.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def timm(data: str, name: str, checkpoint: str, out: str) -> None:
    """timm's inference.py with `--topk 0 --output-type logit --results-format parquet --fullname --channels-last`.

    The parts, their order and the defaults are its own: batches of 256, two workers, its loader with its prefetcher.
    """
    import numpy as np
    import pandas
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.models import create_model

    model = create_model(name, pretrained=False, checkpoint_path=checkpoint)
    settings = resolve_data_config({}, model=model)
    model = model.to(torch.device("cpu"), memory_format=torch.channels_last).eval()
    dataset = create_dataset(root=data, name="", split="validation", class_map="")
    loader = create_loader(
        dataset, batch_size=256, use_prefetcher=True, num_workers=2, device=torch.device("cpu"), **settings
    )
    outputs = []
    with torch.inference_mode():
        for pictures, _ in loader:
            outputs.append(model(pictures).float().cpu().numpy())
    names = loader.dataset.filenames(basename=False)
    table = pandas.DataFrame({"filename": names, "logit": list(np.concatenate(outputs).astype(np.float32))})
    table.set_index("filename").to_parquet(out)


def torchvision(data: str, name: str, checkpoint: str, out: str) -> None:
    """The evaluation of torchvision's references/classification: its preset, ImageFolder, batches of 32, accuracies."""
    import torch
    import torchvision as library

    model = library.models.get_model(name, weights=None)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    preset = library.models.get_model_weights(name).DEFAULT.transforms()
    dataset = library.datasets.ImageFolder(data, preset)
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=2)
    outputs, right, right5 = [], 0.0, 0.0
    model.eval()
    with torch.inference_mode():
        for pictures, label in loader:
            output = model(pictures)
            torch.nn.functional.cross_entropy(output, label).item()
            top = output.topk(5).indices == label[:, None]
            right, right5 = right + top[:, 0].sum().item(), right5 + top.sum().item()
            outputs.append(output)
    print(f"Acc@1 {right / len(dataset):.3f} Acc@5 {right5 / len(dataset):.3f}")
    _write(out, [str(Path(file).relative_to(data)) for file, _ in dataset.samples], outputs)


def plain(data: str, name: str, checkpoint: str, out: str) -> None:
    """What everybody writes: the library's model and transform, a DataLoader of two workers, batches of 64."""
    import timm as library
    import torch
    from PIL import Image

    model = library.create_model(name, checkpoint_path=checkpoint).eval()
    transform = library.data.create_transform(**library.data.resolve_model_data_config(model), is_training=False)
    files = sorted(Path(data).glob("*/*.jpg"))

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> Any:
            return transform(Image.open(files[i]).convert("RGB"))

    loader = torch.utils.data.DataLoader(Pictures(), batch_size=64, num_workers=2)
    with torch.inference_mode():
        outputs = [model(pictures) for pictures in loader]
    _write(out, [str(file.relative_to(data)) for file in files], outputs)


def parts(data: str, name: str, checkpoint: str, _: str) -> None:
    """No loop at all, but what no loop can do without: decode and resize on two threads, and the model on a batch."""
    import timm as library
    import torch
    from PIL import Image

    model = library.create_model(name, checkpoint_path=checkpoint).eval().to(memory_format=torch.channels_last)
    batch = torch.rand(64, 3, 224, 224).to(memory_format=torch.channels_last)
    files = sorted(Path(data).glob("*/*.jpg"))

    def picture(file: Path) -> None:
        image = Image.open(file).convert("RGB")
        scale = 256 / min(image.size)
        resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        resized.crop((left, top, left + 224, top + 224))

    with torch.inference_mode(), ThreadPoolExecutor(2) as threads:
        for start in range(0, len(files), 64):
            chunk = files[start : start + 64]
            list(threads.map(picture, chunk))
            model(batch[: len(chunk)])


def _write(out: str, names: list[str], outputs: list[Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    logits = torch.cat(outputs)
    column = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1).numpy()), logits.shape[1])
    pq.write_table(pa.table({"filename": names, "logit": column}), out)


LOOPS = {loop.__name__: loop for loop in (timm, torchvision, plain, parts)}

if __name__ == "__main__":
    LOOPS[sys.argv[1]](*sys.argv[2:6])
