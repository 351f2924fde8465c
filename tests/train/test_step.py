"""Parts of a training step."""

from __future__ import annotations

import torch

from bench.train.step import as_stored


def test_gradients_of_contiguous_memory_get_the_strides_of_their_parameters():
    odd = torch.randn(32).as_strided((4, 8, 1, 1), (8, 1, 8, 8))  # as cuDNN gives it for a 1x1 convolution
    stored = as_stored(odd)
    assert stored.stride() == torch.empty(4, 8, 1, 1).stride() != odd.stride()
    assert torch.equal(stored, odd) and stored.data_ptr() == odd.data_ptr()
    other = torch.randn(4, 8, 3, 3).to(memory_format=torch.channels_last)
    assert as_stored(other) is other
