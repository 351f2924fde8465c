"""The students that timm lacks: what is special in each, against formulas written plainly."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from bench.config.schema import Train
from bench.models import cvt, pvt, t2t_vit
from bench.train.task import Task, make_optimizer
from tests.helpers.networks import small


def attend(q, k, v, scale):
    """Softmax attention of one head, written plainly: [tokens, channels] each."""
    weights = (q @ k.T * scale).exp()
    return weights / weights.sum(1, keepdim=True) @ v


def heads_of(x, heads):
    return x.chunk(heads, dim=1)


@pytest.mark.parametrize("name", ["t2t_vit_7", "pvt_tiny", "cvt_13"])
def test_only_weights_of_layers_decay(name):
    student = small(name)
    groups = make_optimizer(Task(student), Train()).param_groups
    names = {id(p): name for name, p in student.network.named_parameters()}
    plain = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert {n for n in plain if not n.endswith(".bias") and ".norm" not in n and not n.startswith("norm.")} == {
        "t2t_vit_7": {"cls_token"},
        "pvt_tiny": {"stages.3.cls_token", *(f"stages.{i}.pos_embed" for i in range(4))},
        "cvt_13": {"stages.2.cls_token", *(n for n in names.values() if re.search(r"conv_[qkv]\.1\.weight$", n))},
    }[name]
    assert all(n.endswith(".weight") for n in decayed)


def test_initial_weights_are_the_released_ones():
    t2t, pyramid, conv = (small(name).network for name in ("t2t_vit_7", "pvt_tiny", "cvt_13"))
    for network in (t2t, pyramid, conv):
        linears = [m for m in network.modules() if isinstance(m, nn.Linear)]
        assert max(m.weight.abs().max().item() for m in linears) < 0.15  # timm's trunc_normal_ draws a -2 now and then
        assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.1) for m in linears)
        assert not any(m.bias.any() for m in linears if m.bias is not None and m is not network.head)
    assert not t2t.head.bias.any() and not pyramid.head.bias.any()
    assert conv.head.bias.any()  # keeps PyTorch's default
    tokens = [t2t.cls_token, pyramid.stages[3].cls_token, conv.stages[2].cls_token]
    for token in (*tokens, *(stage.pos_embed for stage in pyramid.stages)):
        assert token.std().item() == pytest.approx(0.02, rel=0.2)
    default = nn.Conv2d(320, 512, 2).weight.std().item()  # convolutions keep PyTorch's own
    assert pyramid.stages[3].patch_embed.weight.std().item() == pytest.approx(default, rel=0.02)


def test_t2t_sizes_follow_the_recipe():
    settings = ["width=96", "depth=3", "heads=3", "mlp_ratio=1.5", "feature_layers=[blocks.0, blocks.1, blocks.2]"]
    network = small("t2t_vit_7", *(f"model.{setting}" for setting in settings)).network
    block = network.blocks[2]
    assert len(network.blocks) == 3 and block.attn.num_heads == 3 and block.mlp.fc1.weight.shape == (144, 96)


def test_performer_attention_is_its_formula():
    torch.manual_seed(0)
    attention = t2t_vit.PerformerAttention(12, 8).requires_grad_(False)
    x = torch.randn(2, 5, 12)
    out = attention(x)
    attention, x = attention.double(), x.double()
    k, q, v = (x @ w.T + b for w, b in zip(attention.kqv.weight.chunk(3), attention.kqv.bias.chunk(3), strict=True))
    w = attention.directions  # 4 orthogonal directions of norm sqrt(4)
    assert torch.allclose(w @ w.T, 4 * torch.eye(4, dtype=torch.float64), atol=1e-5)

    def kernel(a, b):
        return sum(math.exp(u @ a - a @ a / 2) * math.exp(u @ b - b @ b / 2) / 4 for u in w)

    expected = torch.empty_like(v)
    for sample in range(2):
        for i in range(5):
            weights = [kernel(q[sample, i], k[sample, j]) for j in range(5)]
            expected[sample, i] = sum(a * row for a, row in zip(weights, v[sample], strict=True)) / sum(weights)
    assert torch.allclose(t2t_vit.kernel_attention(q, k, v, w), expected, atol=1e-6)
    assert torch.allclose(out.double(), attention.proj(expected) + v, atol=1e-5)


def test_random_features_estimate_the_softmax_kernel():
    torch.manual_seed(0)
    a, b = 0.25 * torch.randn(2, 1, 4, 16, dtype=torch.float64)
    directions = torch.randn(200_000, 16, dtype=torch.float64)
    estimate = t2t_vit.random_features(a, directions) @ t2t_vit.random_features(b, directions).transpose(1, 2)
    assert torch.allclose(estimate, (a @ b.transpose(1, 2)).exp(), rtol=0.05)


def test_performer_kernel_is_fp32_under_autocast(monkeypatch):
    seen = []
    original = t2t_vit.kernel_attention
    monkeypatch.setattr(
        t2t_vit, "kernel_attention", lambda *inputs: seen.append((inputs, original(*inputs))) or seen[-1][1]
    )
    attention = t2t_vit.PerformerAttention(147, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(torch.randn(2, 64, 147))
    (inputs, y), *_ = seen
    assert out.dtype == torch.bfloat16
    assert y.dtype == torch.float32 and {t.dtype for t in inputs} == {torch.float32}
    assert torch.equal(y, original(*inputs))  # nothing inside was rounded to bf16


def test_random_features_are_saved_and_not_trained():
    network = small("t2t_vit_7").network
    names = [n for n, _ in network.named_buffers() if n.endswith("directions")]
    assert len(names) == 2 and set(names) <= set(network.state_dict()) and "pos_embed" not in network.state_dict()
    assert not set(names) & {n for n, _ in network.named_parameters()}


def test_sinusoids():
    table = t2t_vit.sinusoids(197, 256)
    assert table.shape == (1, 197, 256) and table.dtype == torch.float32
    assert torch.equal(table[0, 0], torch.tensor([0.0, 1.0]).repeat(128))
    for position, i in ((1, 0), (5, 3), (196, 127)):
        angle = position / 10000 ** (2 * i / 256)
        assert table[0, position, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)])


@pytest.mark.parametrize("reduction", [1, 2])
def test_reduced_attention_is_softmax_attention_on_the_reduced_tokens(reduction):
    torch.manual_seed(0)
    attention = pvt.ReducedAttention(6, 2, reduction).double()
    x = torch.randn(1, 16, 6, dtype=torch.float64)
    kept = x[0]
    if reduction > 1:
        kernel = attention.sr.weight.flatten(1)  # [6, 6 * 2 * 2]
        pixels = x[0].T.reshape(6, 4, 4)
        patches = [pixels[:, i : i + 2, j : j + 2].reshape(-1) for i in (0, 2) for j in (0, 2)]
        kept = torch.stack([kernel @ patch + attention.sr.bias for patch in patches])
        kept = (kept - kept.mean(1, keepdim=True)) / (kept.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    q, (k, v) = attention.q(x[0]), attention.kv(kept).chunk(2, dim=1)
    heads = [attend(*each, 3**-0.5) for each in zip(heads_of(q, 2), heads_of(k, 2), heads_of(v, 2), strict=True)]
    assert torch.allclose(attention(x, torch.Size((4, 4)))[0], attention.proj(torch.cat(heads, 1)), atol=1e-10)


@pytest.mark.parametrize("extra", [0, 1])
def test_conv_attention_scales_by_the_full_width_and_the_class_token_bypasses_it(extra):
    torch.manual_seed(0)
    attention = cvt.ConvAttention(6, 2).double().eval()
    for conv in (attention.conv_q, attention.conv_k, attention.conv_v):
        nn.init.normal_(conv[1].weight)
        nn.init.normal_(conv[1].running_mean)
    x = torch.randn(1, extra + 16, 6, dtype=torch.float64)
    token, pixels = x[0, :extra], x[0, extra:].T.reshape(1, 6, 4, 4)
    q, k, v = (
        linear(torch.cat([token, conv(pixels)[0].flatten(1).T]))
        for conv, linear in zip(
            (attention.conv_q, attention.conv_k, attention.conv_v), (attention.q, attention.k, attention.v), strict=True
        )
    )
    assert len(q) == extra + 16 and len(k) == len(v) == extra + 4
    heads = [attend(*each, 6**-0.5) for each in zip(heads_of(q, 2), heads_of(k, 2), heads_of(v, 2), strict=True)]
    assert torch.allclose(attention(x, torch.Size((4, 4)))[0], attention.proj(torch.cat(heads, 1)), atol=1e-10)


def test_cvt_activation_is_the_quick_gelu():
    activation = small("cvt_13").network.stages[1].blocks[0].mlp.act
    x = torch.linspace(-4, 4, 9)
    assert torch.allclose(activation(x), x / (1 + torch.exp(-1.702 * x)))
