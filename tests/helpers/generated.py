"""Small generated datasets in the layouts of the real ones, for tests.

Open one with `data.subset=<classes>`: the recipes expect the real numbers of images. Each class has a colour of its own,
under noise, so there is something to learn.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

WNIDS = [f"n{1440764 + 97 * i:08d}" for i in range(200)]
COARSE_CLASSES = 20
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_CLASSES = [f"fine_{i:02d}" for i in range(100)]


def write(name: str, folder: Path, classes: int = 4, train: int = 8, test: int = 4, seed: int = 0, size: int = 64) -> Path:
    """Write a dataset into the data folder `folder`. Returns the path of the dataset's own folder.

    Args:
        name: cifar10, cifar100, flowers102, tiny_imagenet, chaoyang, or folder (class folders in `photos`, so that the
            dataset is `folder:photos`).
        train, test: images per class.
        size: px of Chaoyang's images (the real ones have 512) and of those in class folders.
    """
    writer = {
        "cifar10": _cifar10,
        "cifar100": _cifar100,
        "flowers102": _flowers,
        "tiny_imagenet": _tiny_imagenet,
        "chaoyang": lambda *arguments: _chaoyang(*arguments, size),
        "folder": lambda *arguments: _class_folders(*arguments, size),
    }[name]
    return writer(Path(folder), classes, train, test, np.random.default_rng(seed))


def picture(rng: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """[height, width, 3] uint8: the colour of a class under noise."""
    colour = np.random.default_rng([7, label]).integers(30, 226, 3)
    return np.clip(colour + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def save(pixels: np.ndarray, path: Path, mode: str = "RGB") -> None:
    """Write an image; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, quality=95)


def write_parquet(
    path: Path, columns: Mapping[str, Sequence[object]], classes: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write a parquet file in the schema of the hub. Columns of bytes are images; `classes` are the names of labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [name for name, values in columns.items() if isinstance(values[0], bytes)]
    values = {n: [{"bytes": b, "path": None} for b in v] if n in images else v for n, v in columns.items()}
    table = pa.table(values)
    if classes is not None:
        features = {name: {"_type": "Image"} for name in images}
        features |= {name: {"_type": "ClassLabel", "names": list(names)} for name, names in classes.items()}
        features |= {n: {"_type": "Value", "dtype": str(table.schema.field(n).type)} for n in columns if n not in features}
        kinds = {name: pa.struct({"bytes": pa.binary(), "path": pa.string()}) for name in images}
        schema = pa.schema({name: kinds.get(name, table.schema.field(name).type) for name in columns})
        table = table.cast(schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})}))
    pq.write_table(table, path)


def pack(top: Path, archive: Path, *, outer: str = "", dot: str = "") -> Path:
    """Write an archive of a folder, with the folder in it. outer: a folder around it; dot: before each name in a tar."""
    files = [path for path in sorted(top.rglob("*"), reverse=True) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for path in files:
                out.write(path, f"{outer}{path.relative_to(top.parent)}")
    else:
        with tarfile.open(archive, "w:gz") as out:
            for path in files:
                out.add(path, f"{dot}{outer}{path.relative_to(top.parent)}")
    return archive


def _labels(rng: np.random.Generator, classes: int, per_class: int) -> list[int]:
    return rng.permutation(np.repeat(np.arange(classes), per_class)).tolist()


def _batch(rng: np.random.Generator, labels: list[int], /, **more: object) -> dict[bytes, object]:
    pixels = [picture(rng, label, 32, 32).transpose(2, 0, 1).ravel() for label in labels]
    data = np.array(pixels, np.uint8).reshape(-1, 3072)
    names = [b"image_s_%06d.png" % i for i in range(len(labels))]
    return {b"filenames": names, b"data": data, **{name.encode(): value for name, value in more.items()}}


class _Python2(pickle._Pickler):
    """Pickles as Python 2 and its numpy did, which wrote the real batches: all strings are byte strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _string(self, value: bytes | str) -> None:
        raw = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _string


def _pickle(path: Path, content: dict[bytes, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def _cifar100(folder: Path, classes: int, train: int, test: int, rng: np.random.Generator) -> Path:
    top = folder / "cifar-100-python"
    for name, per_class in (("train", train), ("test", test)):
        labels = _labels(rng, classes, per_class)
        coarse = [label % COARSE_CLASSES for label in labels]
        _pickle(top / name, _batch(rng, labels, batch_label=b"1 of 1", fine_labels=labels, coarse_labels=coarse))
    coarse_names = [f"coarse_{i:02d}" for i in range(COARSE_CLASSES)]
    names = {b"fine_label_names": CIFAR100_CLASSES, b"coarse_label_names": coarse_names}
    _pickle(top / "meta", {key: [name.encode() for name in value] for key, value in names.items()})
    return top


def _cifar10(folder: Path, classes: int, train: int, test: int, rng: np.random.Generator) -> Path:
    top = folder / "cifar-10-batches-py"
    parts = [part.tolist() for part in np.array_split(_labels(rng, classes, train), 5)]
    for i, labels in enumerate(parts, 1):
        _pickle(top / f"data_batch_{i}", _batch(rng, labels, batch_label=b"%d of 5" % i, labels=labels))
    labels = _labels(rng, classes, test)
    _pickle(top / "test_batch", _batch(rng, labels, batch_label=b"testing batch 1 of 1", labels=labels))
    names = [name.encode() for name in CIFAR10_CLASSES]
    _pickle(top / "batches.meta", {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072})
    return top


def _flowers(folder: Path, classes: int, train: int, test: int, rng: np.random.Generator) -> Path:
    top = folder / "flowers"
    # The real images are sorted by class, and those of a class are spread over the three sets.
    labels = np.repeat(np.arange(1, classes + 1), train + test)
    sets = {"trnid": [], "valid": [], "tstid": []}
    for label in range(1, classes + 1):
        ids = rng.permutation(np.flatnonzero(labels == label) + 1)
        for name, part in zip(sets, np.split(ids, (train // 2, train)), strict=True):
            sets[name] += part.tolist()
    for number, label in enumerate(labels, 1):
        height, width = rng.integers(60, 91, 2)
        save(picture(rng, label - 1, height, width), top / "jpg" / f"image_{number:05d}.jpg")
    savemat(top / "imagelabels.mat", {"labels": labels.astype(np.uint8)[None]})
    savemat(top / "setid.mat", {name: rng.permutation(ids).astype(np.uint16)[None] for name, ids in sets.items()})
    return top


def _tiny_imagenet(folder: Path, classes: int, train: int, test: int, rng: np.random.Generator) -> Path:
    top = folder / "tiny-imagenet-200"
    wnids = rng.permutation(WNIDS[:classes]).tolist()  # the real list is not sorted either
    number = {wnid: label for label, wnid in enumerate(sorted(wnids))}
    modes = ["RGB", "RGB", "RGB", "L", "RGB"]  # some of the real images are grey
    for wnid in wnids:
        names = [f"{wnid}_{i}.JPEG" for i in range(train)]
        for i, name in enumerate(names):
            save(picture(rng, number[wnid], 64, 64), top / "train" / wnid / "images" / name, modes[i % 5])
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(f"{name}\t0\t0\t63\t63\n" for name in names))
    annotations = []
    for i, label in enumerate(_labels(rng, classes, test)):
        save(picture(rng, label, 64, 64), top / "val" / "images" / f"val_{i}.JPEG", modes[i % 5])
        annotations.append(f"val_{i}.JPEG\t{sorted(wnids)[label]}\t0\t0\t63\t63\n")
    (top / "val" / "val_annotations.txt").write_text("".join(annotations))
    save(picture(rng, 0, 64, 64), top / "test" / "images" / "test_0.JPEG")  # without a label, as the real ones
    (top / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (top / "words.txt").write_text("".join(f"{wnid}\tthing {i}, object {i}\n" for i, wnid in enumerate(WNIDS)))
    return top


def _chaoyang(folder: Path, classes: int, train: int, test: int, rng: np.random.Generator, size: int) -> Path:
    top = folder / "chaoyang"
    for split, per_class in (("train", train), ("test", test)):
        entries = []
        for i, label in enumerate(_labels(rng, classes, per_class)):
            name = f"{split}/{500000 + i}-{i}-IMG005x{i:03d}.JPG"
            save(picture(rng, label, size, size), top / name)
            entries.append({"name": name, "label": label})
        (top / f"{split}.json").write_text(json.dumps(entries))
    return top


def _class_folders(folder: Path, classes: int, train: int, test: int, rng: np.random.Generator, size: int) -> Path:
    top = folder / "photos"
    for split, per_class in (("train", train), ("test", test)):
        for label in range(classes):
            for i in range(per_class):
                pixels = picture(rng, label, *rng.integers(size // 2, size + 1, 2))
                save(pixels, top / split / f"class_{label:02d}" / f"{i:03d}{'.png' if i % 2 else '.jpg'}")
    return top
