"""MultiheadPatternAttention against nn.MultiheadAttention and transformers' Llama, and what its config holds."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import attnc
import pytest
import torch
from torch import Tensor, nn

import attnlang
from attnlang.nn import MultiheadPatternAttention, PatternAttention
from attnlang.nn.rotary import rotate

ROUNDING = {"rtol": 0, "atol": 1e-12}
E = 24


def causal(heads: int = 4, **rest: Any) -> MultiheadPatternAttention:
    torch.manual_seed(0)
    return MultiheadPatternAttention(E, heads, attnc.compile("causal", heads=heads), dtype=torch.float64, **rest)


def torchs(mine: MultiheadPatternAttention) -> nn.MultiheadAttention:
    """Torch's module with the same weights."""
    other = nn.MultiheadAttention(E, mine.num_heads, batch_first=mine.batch_first, dtype=torch.float64)
    projections = mine.q_proj, mine.k_proj, mine.v_proj
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        other.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        other.out_proj.weight.copy_(mine.out_proj.weight)
        other.out_proj.bias.copy_(mine.out_proj.bias)
    return other


def x(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def triangle(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).triu(1)  # True = ignore


@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_torchs_module_under_the_same_weights(batch_first: bool) -> None:
    mine = causal(batch_first=batch_first)
    given = x(3, 10, E) if batch_first else x(10, 3, E)
    expected, _ = torchs(mine)(given, given, given, attn_mask=triangle(10), need_weights=False)
    out, weights = mine(given)
    torch.testing.assert_close(out, expected, **ROUNDING)
    assert weights is None
    torch.testing.assert_close(mine(given[0])[0], mine(given[:1] if batch_first else given[0][:, None])[0].squeeze(
        0 if batch_first else 1), **ROUNDING)  # fmt: skip


def test_key_padding_mask_means_what_it_means_in_torch() -> None:
    mine = causal()
    given, lengths = x(3, 10, E), torch.tensor([10, 4, 1])
    padding = torch.arange(10) >= lengths[:, None]
    expected, _ = torchs(mine)(
        given, given, given, key_padding_mask=padding, attn_mask=triangle(10), need_weights=False
    )
    out, _ = mine(given, key_padding_mask=padding)
    torch.testing.assert_close(out[~padding], expected[~padding], **ROUNDING)
    torch.testing.assert_close(out, mine(given, lengths=lengths)[0], **ROUNDING)
    with pytest.raises(ValueError, match=r"may mark the end of a sequence only.*pad on the right"):
        mine(given, key_padding_mask=~padding)
    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(given, key_padding_mask=padding)[0], out, **ROUNDING)


def test_key_and_value_of_their_own_and_fewer_queries() -> None:
    mine = causal()
    query, key, value = x(2, 3, E), x(2, 10, E) + 1, x(2, 10, E) - 1
    expected, _ = torchs(mine)(query, key, value, attn_mask=triangle(10)[7:], need_weights=False)
    torch.testing.assert_close(mine(query, key, value)[0], expected, **ROUNDING)


def test_stands_in_a_transformer_encoder_layer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, 4, 32, dropout=0.0, batch_first=True, dtype=torch.float64)
    mine, theirs = copy.deepcopy(layer), copy.deepcopy(layer)
    mine.self_attn = causal()  # type: ignore[assignment]
    theirs.self_attn = torchs(mine.self_attn)  # type: ignore[arg-type]
    for mode in (True, False):
        mine.train(mode)
        theirs.train(mode)
        torch.testing.assert_close(mine(x(2, 9, E)), theirs(x(2, 9, E), src_mask=triangle(9)), **ROUNDING)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("mode", [True, False])
def test_stands_in_a_transformer_encoder_with_padding(mode: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, 4, 32, dropout=0.0, batch_first=True, dtype=torch.float64)
    layer.self_attn = causal()  # type: ignore[assignment]
    mine = nn.TransformerEncoder(layer, 2).train(mode)
    theirs = copy.deepcopy(mine)
    for each in theirs.layers:
        each.self_attn = torchs(each.self_attn)  # type: ignore[arg-type]
    padding = torch.arange(9) >= torch.tensor([[9], [5]])  # which torch makes 0 and -inf of
    found = mine(x(2, 9, E), src_key_padding_mask=padding)
    expected = theirs(x(2, 9, E), mask=triangle(9), src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding], **ROUNDING)


@pytest.mark.parametrize("own_positions", [False, True])
def test_rope_is_transformers_llamas(own_positions: bool) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=500.0)
    q, k = x(2, 4, 11, 16).float(), x(2, 2, 11, 16).float()
    positions = torch.tensor([[*range(11)], [*range(5), *range(6)]]) if own_positions else torch.arange(11)[None]
    cos, sin = LlamaRotaryEmbedding(config)(q, positions)
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    mine = (rotate(a, positions if own_positions else positions[0], 500.0) for a in (q, k))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_rope_and_grouped_heads_equal_transformers_llama_attention() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=E, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    config._attn_implementation = "eager"
    theirs = LlamaAttention(config, layer_idx=0).double()
    theta = config.rope_parameters["rope_theta"]
    mine = causal(num_kv_heads=2, head_dim=8, bias=False, rope_theta=theta)
    missing = theirs.load_state_dict({n.replace("out_", "o_"): p for n, p in mine.state_dict().items()})
    assert not missing.missing_keys
    given = x(2, 9, E)
    mask = torch.zeros(9, 9, dtype=torch.float64).masked_fill(triangle(9), float("-inf"))[None, None]
    embeddings = LlamaRotaryEmbedding(config)(given, torch.arange(9)[None])
    expected = theirs(given, position_embeddings=embeddings, attention_mask=mask)[0]
    torch.testing.assert_close(mine(given)[0], expected, rtol=0, atol=1e-6)  # Llama's angles are float32
    torch.testing.assert_close(mine(given[:, 6:], given)[0], mine(given)[0][:, 6:], **ROUNDING)


def test_the_pattern_is_in_the_config_and_not_in_the_state_dict() -> None:
    longnet = attnc.compile("longnet", heads=4, segments=[4, 8], dilations=[1, 2])
    mine = MultiheadPatternAttention(E, 4, longnet, num_kv_heads=2, rope_theta=1e4)
    assert sorted(mine.state_dict()) == sorted(
        f"{p}_proj.{w}" for p in ("q", "k", "v", "out") for w in ("weight", "bias")
    )
    config = json.loads(json.dumps(mine.attn_config()))
    pattern = config["attention"]["pattern"]
    assert (pattern["name"], pattern["parameters"]) == ("longnet", {"segments": [4, 8], "dilations": [1, 2]})
    assert pattern["source"] == attnlang.load("longnet").source.text
    again = MultiheadPatternAttention.from_config(config)
    again.load_state_dict(mine.state_dict())
    given = x(2, 20, E).float()
    assert torch.equal(again(given)[0], mine(given)[0])
    assert again.attn_config() == mine.attn_config()
    pattern["source"] += "\n"
    with pytest.raises(ValueError, match="does not have the SHA-256 that is given for it"):
        MultiheadPatternAttention.from_config(config)


def test_a_reference_module_survives_its_config() -> None:
    module = attnc.compile("packed", heads=2, backend="reference")
    again = PatternAttention.from_config(json.loads(json.dumps(module.attn_config())))
    given, doc = x(1, 2, 7, 4), torch.arange(7) // 3
    assert torch.equal(again(given, given, given, doc=doc), module(given, given, given, doc=doc))


def test_what_is_no_config_is_refused() -> None:
    with pytest.raises(ValueError, match="this is no attn_config: it lacks pattern, plan, heads, backend"):
        PatternAttention.from_config({})
    config = attnc.compile("causal", heads=2).attn_config()
    for name in ("pattern", "plan"):
        for value in (3, "x", {}, []):
            with pytest.raises(ValueError, match="this is no attn_config"):
                PatternAttention.from_config({**config, name: value})


def test_an_emitted_class_is_a_pattern(tmp_path: Path) -> None:
    from attnc.analysis.report import report
    from attnc.emit.python import emit
    from attnc.lower import lower

    pattern = attnlang.load("sliding", w=3)
    namespace: dict[str, Any] = {"__name__": "emitted"}
    exec(emit(report(pattern, 64, 4, 8), lower(pattern, 4)), namespace)
    mine = MultiheadPatternAttention(E, 4, namespace["Sliding"], backend="sdpa")
    assert mine.attention.backend == "sdpa"
    assert mine(x(1, 7, E).float())[0].shape == (1, 7, E)


def test_a_name_is_compiled_by_whatever_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlang.compiler.GROUP", "attnlang.compilers.tests")
    with pytest.raises(ValueError, match="no compiler is installed here: compile the pattern where attnc is"):
        MultiheadPatternAttention(E, 4, "longnet")
    metadata = tmp_path / "compiler_for_tests-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: compiler-for-tests\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[attnlang.compilers.tests]\nattnc = attnc.api:compile\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    mine = MultiheadPatternAttention(E, 4, "sliding", w=5, backend="sdpa")
    assert mine.attention.pattern.call == "sliding(w=5)"
    assert MultiheadPatternAttention(E, 4, attnlang.load("causal")).attention.backend == "auto"


def test_attnc_registers_itself() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["attnlang.compilers"] == {"attnc": "attnc.api:compile"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ({"embed_dim": 25}, "embed_dim 25 is no multiple of num_heads 4: give head_dim"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"num_kv_heads": 3}, "num_kv_heads 3 must divide num_heads 4"),
        ({"head_dim": 3, "rope_theta": 1e4}, "needs an even head_dim, not 3"),
        ({"rope_theta": 0.0}, "rope_theta must be a number above 0, as 10000.0, or None, not 0.0"),
        ({"rope_theta": float("nan")}, "rope_theta must be a number above 0"),
        ({"dropout": 0.1}, "dropout must be 0, not 0.1"),
        ({"num_heads": 8}, "was compiled for 4 heads, but num_heads is 8"),
        ({"w": 3}, "compiled already: w cannot be set"),
        ({"backend": "sdpa"}, "compiled already, for backend 'auto'"),
        ({"pattern": 3}, "must be a compiled pattern, a Pattern, a name or a file, not 3"),
    ],
)
def test_unsuitable_constructions_are_refused(build: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"embed_dim": E, "num_heads": 4, "pattern": attnc.compile("causal", heads=4)} | build
    with pytest.raises(ValueError, match=message):
        MultiheadPatternAttention(**given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"query": x(2, 9, E + 1)}, r"query must be \(batch, length, embed_dim\)"),
        ({"need_weights": True}, "attention weights are never formed"),
        ({"attn_mask": triangle(9)}, "the pattern's to say; pass neither"),
        ({"is_causal": True}, "the pattern's to say; pass neither"),
        (
            {"key_padding_mask": torch.zeros(2, 9).int()},
            r"shape \(2, 9\), booleans \(True = ignore\) or 0 and -inf, not int32",
        ),
        ({"key_padding_mask": torch.ones(2, 9)}, "-inf where to ignore, and 0 elsewhere; here are others"),
        ({"key_padding_mask": triangle(9)[:2], "lengths": torch.tensor([9, 9])}, "say the same: give one"),
        ({"position_ids": torch.arange(9)}, "no use without rope_theta"),
    ],
)
def test_unsuitable_calls_are_refused(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal()(**({"query": x(2, 9, E)} | call))
    with pytest.raises(ValueError, match=r"position_ids must have shape \(9,\) or \(2, 9\)"):
        causal(rope_theta=1e4)(x(2, 9, E), position_ids=torch.arange(8))
    with pytest.raises(ValueError, match="position_ids must be a tensor, not list"):
        causal(rope_theta=1e4)(x(2, 9, E), position_ids=[0] * 9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="query has 9 positions, more than the 5 of key"):
        causal(rope_theta=1e4)(x(2, 9, E), x(2, 5, E))
