"""Small generated datasets in the layouts in which the real ones lie on disk. Open one with data.subset=<classes>: the
recipes expect the real numbers of images. A class has a colour of its own, under noise, so there is something to learn."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

WNIDS = [f"n{1440764 + 97 * i:08d}" for i in range(200)]
COARSE = 20
TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUNDRED = [f"fine_{i:02d}" for i in range(100)]


def write(name: str, folder: Path, classes: int = 4, train: int = 8, test: int = 4, seed: int = 0, size: int = 64) -> Path:
    """Write a dataset into the data folder `folder`; returns the path of its own folder.

    Args:
        name: cifar10, cifar100, flowers102, tiny_imagenet, chaoyang, or folder (class folders in `photos`, so that the
            dataset is `folder:photos`).
        train, test: images a class.
        size: px of Chaoyang's images (the real ones have 512) and of the class folders'.
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


def picture(random: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """[height, width, 3] uint8: the colour of a class under noise."""
    colour = np.random.default_rng([7, label]).integers(30, 226, 3)
    return np.clip(colour + random.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def _labels(random: np.random.Generator, classes: int, each: int) -> list[int]:
    return random.permutation(np.repeat(np.arange(classes), each)).tolist()


def _save(pixels: np.ndarray, path: Path, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert("L") if grey else image).save(path, quality=95)


def _batch(random: np.random.Generator, chosen: list[int], **more: object) -> dict[bytes, object]:
    pixels = [picture(random, label, 32, 32).transpose(2, 0, 1).ravel() for label in chosen]
    data = np.array(pixels, np.uint8).reshape(-1, 3072)
    names = [b"image_s_%06d.png" % i for i in range(len(chosen))]
    return {b"filenames": names, b"data": data, **{name.encode(): value for name, value in more.items()}}


class _Python2(pickle._Pickler):
    """Pickles as Python 2 and its numpy did, which wrote the real batches: all texts are byte strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _text(self, value: bytes | str) -> None:
        raw = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _text


def _pickle(path: Path, content: dict[bytes, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


def _cifar100(folder: Path, classes: int, train: int, test: int, random: np.random.Generator) -> Path:
    top = folder / "cifar-100-python"
    for name, each in (("train", train), ("test", test)):
        labels = _labels(random, classes, each)
        coarse = [label % COARSE for label in labels]
        _pickle(top / name, _batch(random, labels, batch_label=b"1 of 1", fine_labels=labels, coarse_labels=coarse))
    names = {b"fine_label_names": HUNDRED, b"coarse_label_names": [f"coarse_{i:02d}" for i in range(COARSE)]}
    _pickle(top / "meta", {key: [name.encode() for name in value] for key, value in names.items()})
    return top


def _cifar10(folder: Path, classes: int, train: int, test: int, random: np.random.Generator) -> Path:
    top = folder / "cifar-10-batches-py"
    parts = [part.tolist() for part in np.array_split(_labels(random, classes, train), 5)]
    for i, labels in enumerate(parts, 1):
        _pickle(top / f"data_batch_{i}", _batch(random, labels, batch_label=b"%d of 5" % i, labels=labels))
    labels = _labels(random, classes, test)
    _pickle(top / "test_batch", _batch(random, labels, batch_label=b"testing batch 1 of 1", labels=labels))
    _pickle(
        top / "batches.meta", {b"num_cases_per_batch": 10000, b"label_names": [n.encode() for n in TEN], b"num_vis": 3072}
    )
    return top


def _flowers(folder: Path, classes: int, train: int, test: int, random: np.random.Generator) -> Path:
    from scipy.io import savemat

    top = folder / "flowers"
    # the real images stand class by class, and each class's are spread over the three sets
    labels = np.repeat(np.arange(1, classes + 1), train + test)
    sets = {"trnid": [], "valid": [], "tstid": []}
    for label in range(1, classes + 1):
        ids = random.permutation(np.flatnonzero(labels == label) + 1)
        ends = (train // 2, train)
        for name, part in zip(sets, np.split(ids, ends), strict=True):
            sets[name] += part.tolist()
    for number, label in enumerate(labels, 1):
        height, width = random.integers(60, 91, 2)
        _save(picture(random, label - 1, height, width), top / "jpg" / f"image_{number:05d}.jpg")
    savemat(top / "imagelabels.mat", {"labels": labels.astype(np.uint8)[None]})
    savemat(top / "setid.mat", {name: random.permutation(ids).astype(np.uint16)[None] for name, ids in sets.items()})
    return top


def _tiny_imagenet(folder: Path, classes: int, train: int, test: int, random: np.random.Generator) -> Path:
    top = folder / "tiny-imagenet-200"
    wnids = random.permutation(WNIDS[:classes]).tolist()  # the real list is not sorted either
    number = {wnid: label for label, wnid in enumerate(sorted(wnids))}
    for wnid in wnids:
        boxes = []
        for i in range(train):
            _save(picture(random, number[wnid], 64, 64), top / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", i % 5 == 3)
            boxes.append(f"{wnid}_{i}.JPEG\t0\t0\t63\t63\n")
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(boxes))
    annotations = []
    for i, label in enumerate(_labels(random, classes, test)):
        _save(picture(random, label, 64, 64), top / "val" / "images" / f"val_{i}.JPEG", i % 5 == 3)
        annotations.append(f"val_{i}.JPEG\t{sorted(wnids)[label]}\t0\t0\t63\t63\n")
    (top / "val" / "val_annotations.txt").write_text("".join(annotations))
    _save(picture(random, 0, 64, 64), top / "test" / "images" / "test_0.JPEG")  # without a label, as the real ones
    (top / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    (top / "words.txt").write_text("".join(f"{wnid}\tthing {i}, object {i}\n" for i, wnid in enumerate(WNIDS)))
    return top


def _chaoyang(folder: Path, classes: int, train: int, test: int, random: np.random.Generator, size: int) -> Path:
    top = folder / "chaoyang"
    for split, each in (("train", train), ("test", test)):
        entries = []
        for i, label in enumerate(_labels(random, classes, each)):
            name = f"{split}/{500000 + i}-{i}-IMG005x{i:03d}.JPG"
            _save(picture(random, label, size, size), top / name)
            entries.append({"name": name, "label": label})
        (top / f"{split}.json").write_text(json.dumps(entries))
    return top


def _class_folders(folder: Path, classes: int, train: int, test: int, random: np.random.Generator, size: int) -> Path:
    top = folder / "photos"
    for split, each in (("train", train), ("test", test)):
        for label in range(classes):
            for i in range(each):
                pixels = picture(random, label, *random.integers(size // 2, size + 1, 2))
                _save(pixels, top / split / f"class_{label:02d}" / f"{i:03d}{'.png' if i % 2 else '.jpg'}")
    return top
