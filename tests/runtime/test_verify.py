"""The rule of `verify`: what rounding may do passes, and a kernel that is wrong in its fifth digit does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attnc.lower import lower

import attnlang
from attnlang.runtime import sdpa, verify
from attnlang.runtime.expected import NAMES
from attnlang.runtime.specimens import Specimen
from attnlang.runtime.verify import verify_backends


def small(name: str, **parameters: Any) -> tuple[Specimen, Any]:
    pattern = attnlang.load(name, **parameters)
    return Specimen(pattern, (64, 384)), lower(pattern, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", [("logsparse_local", {"w": 8, "steps": 6}), ("longformer", {"w": 24, "g": 3})])
def test_a_relative_error_of_one_in_ten_thousand_fails(
    name: str, pattern: tuple[str, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(results: tuple[torch.Tensor, ...], names: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(x * (1 + 1e-4) if own == name else x for x, own in zip(results, names, strict=True))

    forward, backward = sdpa.forward, sdpa.backward
    what, plan = small(pattern[0], **pattern[1])
    options: dict[str, Any] = {"backends": ["sdpa"], "dtypes": ["float32"], "device": "cpu"}
    assert verify_backends(what, plan, **options).passed
    monkeypatch.setattr(sdpa, "forward", lambda *given: wrong(forward(*given), ("out", "lse")))
    monkeypatch.setattr(sdpa, "backward", lambda *given: wrong(backward(*given), ("dq", "dk", "dv")))
    found = verify_backends(what, plan, **options)
    place = NAMES.index(name)
    assert not found.passed
    assert any(finding.errors[place] > finding.allowed[place] for finding in found.findings)


@pytest.mark.parametrize("name", ["causal", "global_tokens", "logsparse_local"])
def test_what_is_allowed_is_small_beside_the_results(name: str) -> None:
    """Also where two keys are seen by all queries, and their gradients are sums of as many terms."""
    what, plan = small(name, **{"global_tokens": {"tokens": [0, 5]}}.get(name, {}))
    for n in what.lengths:
        case = verify._case(what, (2, 2, n, 64), torch.float32, torch.device("cpu"))
        for exact, most in zip(case.expected.exact, case.expected.allowed, strict=True):
            assert 1e-7 < most / float(exact.abs().max()) < 5e-5
    found = verify_backends(what, plan, backends=["sdpa"], dtypes=["float32"], device="cpu", head_dim=64)
    assert found.passed
