"""How far attention reaches, and how similar maps are.

**Mean attention distance** (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929, figure 7; Raghu et al., NeurIPS 2021,
arXiv 2108.08810): the distance between a query's and a key's position in the image, weighted by the attention, mean over
queries and images. Positions are the centres of the cells of a grid: that of the queries, and in pyramids the smaller one
of the keys. Class tokens are left out as queries and as keys, and the attention to the other keys is divided by its sum.

**Linear CKA** (Kornblith et al., ICML 2019, arXiv 1905.00414) between flattened maps of the same images, without class
tokens: HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L)) of Gram matrices. HSIC is the unbiased estimator of Song et al. (JMLR
2012), each of the three is the mean over minibatches (Nguyen et al., ICLR 2021, arXiv 2010.15327): the usual estimator is
far above zero for independent maps where there are more features than images, as here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from bench.models.attention import attention_maps
from bench.models.features import FeatureExtractor, prefix_tokens


def attention_distance(weights: Tensor, distances: Tensor) -> Tensor:
    """The mean attention distance of each head: [heads], in the unit of the distances.

    Args:
        weights: attention [batch, heads, queries, keys] between patches, without class tokens; rows need not sum to one.
        distances: [queries, keys] between their positions.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights * distances).sum(-1).mean((0, 2))


def block_distances(student: FeatureExtractor, images: Tensor) -> dict[str, tuple[Tensor, float]]:
    """{block: (attention distance of each head, that of uniform attention)} in px.

    Raises ValueError if the network's attention is not known, or not between the cells of square grids of the image.
    """
    network, out = student.network, {}
    for name, weights in attention_maps(network, images).items():
        block = next((block for block in student.feature_layers if name.startswith(f"{block}.")), None)
        if block is None:
            continue
        if weights.ndim != 4 or len(weights) != len(images):
            raise ValueError(
                f"the attention of {type(network).__name__} at {name} is not that of whole images, as in windows"
            )
        if weights.min() < 0:  # CaiT mixes the heads after the softmax
            raise ValueError(f"the attention of {type(network).__name__} at {name} has weights below zero")
        ends = [prefix_tokens(count, network) for count in weights.shape[2:]]
        if None in ends:
            raise ValueError(f"the tokens of {type(network).__name__} at {name} are not those of a square")
        weights = weights[:, :, ends[0] :, ends[1] :]
        queries, keys = (math.isqrt(count) for count in weights.shape[2:])
        if queries != student.shapes[student.feature_layers.index(block)][1]:  # XCiT: between channels
            raise ValueError(f"the attention of {type(network).__name__} at {name} is not that of the cells of its map")
        distances = grid_distances(queries, keys, images.shape[-1]).to(images.device)
        out[block] = attention_distance(weights, distances), distances.mean().item()
    return out


def grid_distances(queries: int, keys: int, side: float) -> Tensor:
    """The distances between the centres of the cells of two square grids over one image: [queries², keys²].

    Args:
        queries, keys: cells along a side.
        side: of the image.
    """
    centres = [(torch.arange(cells) + 0.5) * (side / cells) for cells in (queries, keys)]
    ours, theirs = (torch.cartesian_prod(one, one) for one in centres)
    return torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist")


def centred_gram(maps: Tensor) -> Tensor:
    """The U-centred linear Gram matrix of maps [n, …], float64, [n²], divided by the root of n(n - 3).

    The inner product of two of them is the unbiased estimate of HSIC (Song et al. 2012, equation 5, in the form of Székely
    and Rizzo, Annals of Statistics 2014, arXiv 1310.2926): the diagonal is zero, and so is each row's and column's sum.
    """
    flat = maps.flatten(1).double()
    gram, n = flat @ flat.T, len(flat)
    gram.fill_diagonal_(0)
    rows = gram.sum(1) / (n - 2)
    gram = gram - rows[:, None] - rows[None] + rows.sum() / (n - 1)
    return gram.fill_diagonal_(0).flatten() / (n * (n - 3)) ** 0.5


def cka(minibatches: Iterable[Mapping[str, Tensor]], pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Tensor]:
    """The linear CKA of all layers of two networks, for each pair of networks: [layers of one, layers of the other].

    Args:
        minibatches: of each the `centred_gram` of every layer, by network: {network: [layers, n²]}.

    A map that is the same for all images has no CKA (nan).
    """
    own, both = defaultdict(float), defaultdict(float)
    for grams in minibatches:
        for name, of_layers in grams.items():
            own[name] = own[name] + of_layers.square().sum(1)
        for one, other in pairs:
            both[one, other] = both[one, other] + grams[one] @ grams[other].T
    return {(one, other): hsic / (own[one][:, None] * own[other]).sqrt() for (one, other), hsic in both.items()}
