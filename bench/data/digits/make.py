"""Write train.parquet and test.parquet from scikit-learn's copy of the UCI digits: `python bench/data/digits/make.py`.

1,797 images of 8x8 px with 17 grey levels, scaled to 0..255, as PNG in the hub's image schema; a fifth of every class is
the test set. Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository,
https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FEATURES = {"image": {"_type": "Image"}, "label": {"names": [str(digit) for digit in range(10)], "_type": "ClassLabel"}}


def png(pixels: np.ndarray) -> bytes:
    """[height, width] uint8 as the bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(pixels)), test_size=360, stratify=digits.target, random_state=0)
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
    for split, rows in (("train", train), ("test", test)):
        columns = {"image": [{"bytes": png(pixels[i]), "path": None} for i in rows], "label": digits.target[rows].tolist()}
        pq.write_table(pa.table(columns, schema), Path(__file__).with_name(f"{split}.parquet"))
