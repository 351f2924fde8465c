"""Write train.parquet and test.parquet from scikit-learn's copy of the UCI digits: `python bench/data/digits/make.py`.

1,797 images of 8x8 px with 17 grey levels, scaled to 0..255; a fifth of every class is the test set. Source: Alpaydin and
Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository, https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if __name__ == "__main__":
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(np.arange(len(pixels)), test_size=360, stratify=digits.target, random_state=0)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    for split, rows in (("train", train), ("test", test)):
        columns = {"image": list(pixels[rows]), "label": digits.target[rows]}
        Dataset.from_dict(columns, features).to_parquet(Path(__file__).with_name(f"{split}.parquet"))
