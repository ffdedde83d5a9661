"""A small byte-level GPT whose attention is a compiled pattern: what `train_text.py` trains.

All there is of attnlang in it is one line: `self.attend = attnc.compile(pattern, heads=config.heads)`.

Shape legend: B batch, T tokens, C channels, H heads, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import attnc
import torch
from torch import Tensor, nn

from attnlang import Pattern

BYTES = 256


@dataclass(frozen=True)
class Config:
    """Everything that shapes a run. `context` is the number of bytes the model sees at once."""

    pattern: str
    parameters: dict[str, Any]
    context: int
    layers: int
    heads: int
    channels: int
    batch: int
    learning_rate: float
    seed: int


class Attention(nn.Module):
    """Multi-head self-attention under a pattern, with rotary positions: (B, T, C) to (B, T, C)."""

    def __init__(self, config: Config, pattern: Pattern) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.channels, 3 * config.channels, bias=False)
        self.out = nn.Linear(config.channels, config.channels, bias=False)
        self.attend = attnc.compile(pattern, heads=config.heads)

    def forward(self, x_BTC: Tensor, places_T: Tensor) -> Tensor:
        b, t, c = x_BTC.shape
        q, k, v = (x.view(b, t, self.heads, -1).transpose(1, 2) for x in self.qkv(x_BTC).chunk(3, dim=-1))
        y_BHTD = self.attend(rotate(q, places_T), rotate(k, places_T), v)
        return self.out(y_BHTD.transpose(1, 2).reshape(b, t, c))


def rotate(x_BHTD: Tensor, places_T: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., arXiv:2104.09864): pairs of channels turn by an angle that grows with T."""
    d = x_BHTD.shape[-1]
    frequency = 10_000 ** (-torch.arange(0, d, 2, device=x_BHTD.device) / d)
    angle_TD = places_T[:, None] * frequency
    cos, sin = angle_TD.cos().to(x_BHTD.dtype), angle_TD.sin().to(x_BHTD.dtype)
    even, odd = x_BHTD[..., ::2], x_BHTD[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm and a residual connection."""

    def __init__(self, config: Config, pattern: Pattern) -> None:
        super().__init__()
        c = config.channels
        self.norm_1, self.norm_2 = nn.RMSNorm(c), nn.RMSNorm(c)
        self.attention = Attention(config, pattern)
        self.feed_forward = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))

    def forward(self, x_BTC: Tensor, places_T: Tensor) -> Tensor:
        x_BTC = x_BTC + self.attention(self.norm_1(x_BTC), places_T)
        return x_BTC + self.feed_forward(self.norm_2(x_BTC))


class ByteGPT(nn.Module):
    """Bytes (B, T) to logits of the next byte (B, T, 256). `places_T` are their positions, 0..T-1 unless given."""

    def __init__(self, config: Config, pattern: Pattern) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, config.channels)
        self.blocks = nn.ModuleList(Block(config, pattern) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.channels)
        self.head = nn.Linear(config.channels, BYTES, bias=False)

    def forward(self, bytes_BT: Tensor, places_T: Tensor | None = None) -> Tensor:
        places_T = torch.arange(bytes_BT.size(1), device=bytes_BT.device) if places_T is None else places_T
        x_BTC = self.embed(bytes_BT)
        for block in self.blocks:
            x_BTC = block(x_BTC, places_T)
        return self.head(self.norm(x_BTC))


@torch.no_grad()
def generate(model: ByteGPT, prompt: bytes, count: int, context: int, seed: int) -> str:
    """Continue a prompt byte by byte, each from the model's distribution at temperature 0.8."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    text = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([text[-context:]], device=device))[0, -1].float().cpu()
        text.append(int(torch.multinomial((logits / 0.8).softmax(-1), 1, generator=generator)))
    model.train()
    return bytes(text).decode("utf-8", errors="replace")
