"""`MultiheadPatternAttention`: projections around a pattern, where nn.MultiheadAttention would stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnlang.compiler import compiler
from attnlang.nn.attention import PatternAttention
from attnlang.nn.padding import lengths_of
from attnlang.nn.rotary import rotate
from attnlang.pattern import Pattern


class MultiheadPatternAttention(nn.Module):
    """Multi-head attention under a pattern, with the habits of nn.MultiheadAttention, but batch first.

        out = out_proj(attention(q_proj(query), k_proj(key), v_proj(value)))

    embed_dim     E, the dimension of query, key, value and out
    num_heads     H, the heads of the queries
    pattern       a compiled pattern (`attnc.compile(..)`, an instance or a class that `attnc compile -o` wrote); or a
                  Pattern, a library name or a file, compiled on the spot with `parameters`, where the compiler is
                  installed
    num_kv_heads  heads of keys and values, a divisor of H: 1 for multi-query attention; H unless given
    head_dim      D; E // H unless given
    bias          whether the projections have one
    batch_first   (B, N, E), or (N, B, E) if False
    rope_theta    base of the rotary embedding, as 10000.0; None: none. Rotate-half, as transformers' Llama
    backend       what a pattern that is compiled on the spot runs on; see PatternAttention

    The state_dict holds the four projections and nothing of the pattern: `attn_config()` holds that, as plain data for
    JSON, and `from_config` builds the module anew, without a compiler.

    Raises ValueError for sizes that do not fit, and for dropout other than 0: attention weights are never formed, so
    none of them can be dropped.
    """

    # nn.TransformerEncoderLayer and nn.TransformerEncoder ask for these before they take a path that knows no patterns
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        pattern: PatternAttention | type[PatternAttention] | Pattern | str | Path,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        batch_first: bool = True,
        rope_theta: float | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = embed_dim // max(num_heads, 1) if head_dim is None else head_dim
        self.bias = bias
        self.batch_first = batch_first
        self.rope_theta = rope_theta
        self._check(head_dim is None, dropout)
        self.attention = _compiled(pattern, num_heads, backend, parameters)
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        inner, kv_inner = num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(embed_dim, inner, **options)
        self.k_proj = nn.Linear(embed_dim, kv_inner, **options)
        self.v_proj = nn.Linear(embed_dim, kv_inner, **options)
        self.out_proj = nn.Linear(inner, embed_dim, **options)

    def _check(self, divided: bool, dropout: float) -> None:
        for name in ("embed_dim", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if divided and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is no multiple of num_heads {self.num_heads}: give head_dim")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} must divide num_heads {self.num_heads}")
        if self.rope_theta is not None and self.head_dim % 2:
            raise ValueError(f"a rotary embedding needs an even head_dim, not {self.head_dim}")
        if self.rope_theta is not None and not 0 < self.rope_theta < inf:
            raise ValueError(f"rope_theta must be a number above 0, as 10000.0, or None, not {self.rope_theta}")
        if dropout:
            raise ValueError(
                f"dropout must be 0, not {dropout}: attention weights are never formed here, so none can be dropped; "
                "put nn.Dropout after the module"
            )

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        lengths: Tensor | None = None,
        position_ids: Tensor | None = None,
        **tables: Tensor,
    ) -> tuple[Tensor, None]:
        """Attention of query to key and value, as (out, None): the weights, that nn.MultiheadAttention returns second,
        are never formed.

        query             (B, M, E), or (M, E) without a batch; (M, B, E) where not batch first
        key, value        (B, N, E), N >= M, and queries are the last M positions; query, and key, unless given
        key_padding_mask  (B, N) booleans, True = ignore, as in nn.MultiheadAttention (and unlike the masks of
                          scaled_dot_product_attention), or numbers, -inf = ignore and 0 elsewhere; padding at the end
                          only. That is checked, which waits for a GPU: `lengths` does not
        lengths           (B,) instead: how many tokens of each sequence count
        position_ids      (N,) or (B, N) for the rotary embedding; unless given, 0..N-1, and on several ranks
                          (`attnlang.parallel.distribute`) the tokens that this rank holds
        tables            the content of runtime tables by name

        Raises ValueError for need_weights, attn_mask and is_causal, which the pattern has decided, and for whatever
        does not fit.
        """
        if need_weights:
            raise ValueError("need_weights: attention weights are never formed here; pass need_weights=False")
        if attn_mask is not None or is_causal:
            raise ValueError("attn_mask and is_causal: which keys a query sees is the pattern's to say; pass neither")
        key = query if key is None else key
        value = key if value is None else value
        batched = query.dim() == 3
        q, k, v = (self._batch_first(name, x) for name, x in (("query", query), ("key", key), ("value", value)))
        lengths = self._lengths(key_padding_mask, lengths, k)
        q = self._heads(self.q_proj(q), self.num_heads)
        k, v = self._heads(self.k_proj(k), self.num_kv_heads), self._heads(self.v_proj(v), self.num_kv_heads)
        if self.rope_theta is not None:
            q, k = self._rotated(q, k, position_ids, self.rope_theta)
        elif position_ids is not None:
            raise ValueError("position_ids have no use without rope_theta")
        out = self.attention(q, k, v, lengths=lengths, **tables)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None
        return (out if self.batch_first else out.transpose(0, 1)), None

    def _batch_first(self, name: str, x: Tensor) -> Tensor:
        if x.dim() not in (2, 3) or x.size(-1) != self.embed_dim:
            shape = "(batch, length, embed_dim)" if self.batch_first else "(length, batch, embed_dim)"
            raise ValueError(
                f"{name} must be {shape} or (length, embed_dim), with embed_dim {self.embed_dim}, but has shape "
                f"{tuple(x.shape)}"
            )
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

    def _lengths(self, padding: Tensor | None, lengths: Tensor | None, k: Tensor) -> Tensor | None:
        if padding is None:
            return lengths
        if _placed(self.attention) is not None:
            raise ValueError("key_padding_mask is of one device: on ranks give lengths=, those of the whole sequences")
        if lengths is not None:
            raise ValueError("key_padding_mask and lengths say the same: give one of them")
        if padding.dim() == 1:
            padding = padding.unsqueeze(0)
        if not (padding.dtype == torch.bool or padding.is_floating_point()) or padding.shape != k.shape[:2]:
            raise ValueError(
                f"key_padding_mask must be of shape {tuple(k.shape[:2])}, booleans (True = ignore) or 0 and -inf, not "
                f"{str(padding.dtype).removeprefix('torch.')} of shape {tuple(padding.shape)}"
            )
        return lengths_of(padding)

    def _rotated(self, q: Tensor, k: Tensor, position_ids: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
        n = k.size(2)
        if q.size(2) > n:
            raise ValueError(f"query has {q.size(2)} positions, more than the {n} of key: queries are the last of them")
        positions = self._positions(n, k.device) if position_ids is None else position_ids
        if not isinstance(positions, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
            raise ValueError(f"position_ids must be a tensor, not {type(positions).__name__}")
        if positions.shape not in ((n,), (k.size(0), n)):
            raise ValueError(
                f"position_ids must have shape ({n},) or ({k.size(0)}, {n}), but have {tuple(positions.shape)}"
            )
        return rotate(q, positions[..., n - q.size(2) :], theta), rotate(k, positions, theta)

    def _positions(self, n: int, device: torch.device) -> Tensor:
        placed = _placed(self.attention)
        return torch.arange(n, device=device) if placed is None else placed(device)

    def attn_config(self) -> dict[str, Any]:
        """The module as plain data for JSON, without its weights: sizes, the pattern's source and SHA-256, the plan."""
        names = ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "bias", "batch_first", "rope_theta")
        return {**{name: getattr(self, name) for name in names}, "attention": self.attention.attn_config()}

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MultiheadPatternAttention:
        """The module that `attn_config` described, with new weights.

        Raises ValueError where the pattern's source is not the one that was hashed.
        """
        rest = dict(config)
        attention = PatternAttention.from_config(rest.pop("attention"))
        embed_dim, num_heads = rest.pop("embed_dim"), rest.pop("num_heads")
        return cls(embed_dim, num_heads, attention, device=device, dtype=dtype, **rest)

    def extra_repr(self) -> str:
        kv = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        rope = "" if self.rope_theta is None else f", rope_theta={self.rope_theta:g}"
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}{kv}, head_dim={self.head_dim}{rope}"


def _placed(attention: nn.Module) -> Callable[[torch.device], Tensor] | None:
    """What says which tokens of a sequence lie here, where `attnlang.parallel` has put some elsewhere."""
    return getattr(attention, "positions", None)


def _compiled(
    pattern: PatternAttention | type[PatternAttention] | Pattern | str | Path,
    heads: int,
    backend: str | None,
    parameters: dict[str, Any],
) -> PatternAttention:
    if isinstance(pattern, str | Path | Pattern):
        return compiler()(pattern, heads=heads, backend=backend or "auto", **parameters)
    if parameters:
        raise ValueError(f"the pattern is compiled already: {', '.join(parameters)} cannot be set any more")
    if isinstance(pattern, type) and issubclass(pattern, PatternAttention):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
        pattern = pattern() if backend is None else pattern(backend)  # pyright: ignore[reportCallIssue, reportArgumentType]
    elif backend is not None:
        raise ValueError(f"the pattern is compiled already, for backend {pattern.backend!r}: leave backend= out")
    if not isinstance(pattern, PatternAttention):  # pyright: ignore[reportUnnecessaryIsInstance] - not everyone checks types
        raise ValueError(f"pattern must be a compiled pattern, a Pattern, a name or a file, not {pattern!r}")
    if pattern.heads != heads:
        raise ValueError(f"the pattern was compiled for {pattern.heads} heads, but num_heads is {heads}")
    return pattern
