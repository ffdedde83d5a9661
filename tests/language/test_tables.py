"""Runtime tables: content that comes with the call."""

from __future__ import annotations

from typing import Any

import attnc
import numpy as np
import pytest
import torch

import attnlang
from attnlang import AttnError
from attnlang.pattern.arrays import evaluate_at
from attnlang.pattern.expr import evaluate
from attnlang.source import Source
from attnlang.syntax import parse_expression

N = 12
q, k = np.arange(N)[:, None], np.arange(N)[None, :]
DOCUMENTS = np.array([0] * 5 + [1] * 3 + [2] * 4)
PACKED = "pattern packed(doc: table) = causal & same(doc[pos])"


def test_a_table_by_position() -> None:
    m = attnlang.loads(PACKED).multiplicity(N, 2, doc=DOCUMENTS)
    assert (m == ((k <= q) & (DOCUMENTS[q] == DOCUMENTS[k]))).all()


def test_tables_of_two_axes_by_head_and_distance() -> None:
    text = "pattern p(slash: table, column: table) = pairs(k <= q and (slash[h][q - k] == 1 or column[h][k] == 1))"
    slash, column = (np.random.default_rng(seed).integers(0, 2, (3, N)) for seed in (0, 1))
    pattern = attnlang.loads(text)
    assert pattern.tables == (("column", 2), ("slash", 2))
    m = pattern.multiplicity(N, 3, slash=slash, column=column)
    for head in range(3):
        assert (m[head] == (k <= q) & ((slash[head][q - k] == 1) | (column[head][k] == 1))).all()


def test_a_table_is_handed_on_by_name() -> None:
    text = "pattern inner(t: table, w = 3) = same(t[pos]) & window(w)\npattern outer(doc: table) = inner(doc, w=2)"
    m = attnlang.loads(text, name="outer").multiplicity(N, 1, doc=DOCUMENTS)
    assert (m[0] == (DOCUMENTS[q] == DOCUMENTS[k]) & (k <= q) & (q - k < 2)).all()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "needs the content of doc: give doc=an array of integers"),
        ({"doc": DOCUMENTS, "other": DOCUMENTS}, "has no table 'other': it takes doc"),
        ({"doc": DOCUMENTS[None]}, r"must have 1 axis, but has shape \(1, 12\)"),
        ({"doc": DOCUMENTS / 2}, "must hold integers, not float64"),
        ({"doc": DOCUMENTS.astype(np.uint64) + 2**63}, r"must hold integers below 2\^63, but one is 9"),
    ],
)
def test_unsuitable_tables_are_refused(tables: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attnlang.loads(PACKED).multiplicity(N, 1, **tables)


def test_a_table_may_be_empty_where_there_are_no_positions() -> None:
    assert attnlang.loads(PACKED).multiplicity(0, 1, doc=[]).shape == (1, 0, 0)


def test_an_index_outside_of_the_table_is_reported_at_its_place() -> None:
    with pytest.raises(AttnError, match="index 10, but axis 0 of `doc` has 10 entries"):
        attnlang.loads(PACKED).multiplicity(N, 1, doc=DOCUMENTS[:10])
    with pytest.raises(AttnError, match="index -1, but axis 0 of `t` has 12 entries"):
        attnlang.loads("pattern p(t: table) = pairs(t[q - k] == 1)").multiplicity(N, 1, t=DOCUMENTS)


def test_a_table_is_not_a_parameter() -> None:
    with pytest.raises(AttnError, match="its content is given with every call"):
        attnlang.loads(PACKED, doc=3)
    with pytest.raises(AttnError, match=r"`tables={'doc': \.\.\.}` to attnc's functions"):
        attnc.report("packed", n=4, doc=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"and tables by tables={'doc': \.\.\.}"):
        attnc.report(attnlang.load("packed"), n=4, doc=[0, 0, 1, 1])


@pytest.mark.parametrize("batched", [False, True])
def test_documents_may_change_with_every_call_of_the_module(batched: bool) -> None:
    module = attnc.compile(attnlang.loads(PACKED), heads=2, backend="reference")
    generator = torch.Generator().manual_seed(0)
    q_BHND, k_BHND, v_BHND = (torch.randn(2, 2, N, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    for cut in (3, 7):
        doc = torch.arange(N) >= torch.tensor([[cut], [cut + 2]])
        out = module(q_BHND, k_BHND, v_BHND, doc=doc if batched else doc[0])
        for item in range(2):
            mine = doc[item if batched else 0]
            mask = (mine[:, None] == mine[None, :]).tril()
            expected = torch.nn.functional.scaled_dot_product_attention(
                q_BHND[item], k_BHND[item], v_BHND[item], attn_mask=mask
            )
            torch.testing.assert_close(out[item], expected)
    with pytest.raises(ValueError, match="needs the content of doc"):
        module(q_BHND, k_BHND, v_BHND)
    with pytest.raises(ValueError, match=r"must have 1 axis, or a batch axis of 2 before, but has shape \(3, 12\)"):
        module(q_BHND, k_BHND, v_BHND, doc=torch.zeros(3, N, dtype=torch.long))


@pytest.mark.parametrize(
    "text",
    [
        "q * 3 - k // 2 + 1", "(q - k) % 5", "q < k and k <= 7 or not q == 3", "q // (k - 4) if k > 4 else -q",
        "0 <= q - k < 3", "max(q, k, 5) - min([q, k])", "log2(q + 1) + isqrt(k) + ceildiv(q, 3)",
        "[q, 7, k][q % 3] + len([1, 2])", "sum([x for x in [1, 2, 3] if x <= q])", "2 ** (k % 4) == q or False",
        "k != 4 and q // (k - 4) == 1",
    ],
)  # fmt: skip
def test_many_positions_at_once_have_the_values_of_each(text: str) -> None:
    node, _ = parse_expression(Source("<expression>", text))
    assert node is not None
    places = {"q": np.arange(100) // 10, "k": np.arange(100) % 10}
    singly = [evaluate(node, {"q": int(a), "k": int(b)}) for a, b in zip(places["q"], places["k"], strict=True)]
    assert evaluate_at(node, {}, places).tolist() == singly


def test_overflow_at_one_position_is_reported() -> None:
    with pytest.raises(AttnError, match="integer overflow"):
        attnlang.loads("pattern p = key(pos * 4611686018427387904 > 5)").multiplicity(4, 1)
    with pytest.raises(AttnError, match="division by zero"):
        attnlang.loads("pattern p = pairs(q // (k - 3) == 0)").multiplicity(5, 1)
