"""From a key_padding_mask to lengths: the operator `attnlang::lengths_of`, opaque so that it can look and complain."""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("attnlang", "FRAGMENT")
_library.define("lengths_of(Tensor padding) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def lengths_of(padding: Tensor) -> Tensor:
    """The lengths (B,) of sequences whose padding (B, N) is True, or -inf among zeros, as in nn.MultiheadAttention.

    Raises ValueError unless all padding stands at the end, and for other numbers.
    """
    return torch.ops.attnlang.lengths_of(padding)


def _lengths_of(padding: Tensor) -> Tensor:
    if padding.dtype != torch.bool:
        added, padding = padding, padding == float("-inf")
        if bool(((added != 0) & ~padding).any()):
            raise ValueError(
                "key_padding_mask may be booleans (True = ignore), or numbers that torch would add to the scores: -inf "
                "where to ignore, and 0 elsewhere; here are others"
            )
    if bool((padding[:, :-1] & ~padding[:, 1:]).any()):
        raise ValueError(
            "key_padding_mask (True = ignore) may mark the end of a sequence only, for a pattern counts positions from "
            "the first token: pad on the right"
        )
    return (~padding).sum(-1)


def _fake(padding: Tensor) -> Tensor:
    return padding.new_empty(padding.size(0), dtype=torch.int64)


_library.impl("lengths_of", _lengths_of, "CompositeExplicitAutograd")
torch.library.register_fake("attnlang::lengths_of", _fake, lib=_library)
