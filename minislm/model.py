"""The transformer, from the embedding to the logits.

It reads from top to bottom like the figure in the paper (Vaswani et al. 2017), in the pre-norm
form that every model since GPT-2 has. The knobs of `ModelConfig` turn the one `Block` below into
Llama (the default), GPT-2 or GPT-Neo, the family of the published TinyStories models.

The letters behind a tensor's name are its axes:

    B  batch rows                        C  width of the residual stream
    T  new tokens (queries)              H  query heads
    S  stored tokens (keys and values)   K  key/value heads; H // K queries share one
    V  vocabulary                        D  width of one head
    L  blocks                            F  width of the MLP
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.fast.attention import attend, attend_alone, hide, visible
from minislm.kv_cache import KVCache
from minislm.config import ModelConfig


Rotary = tuple[Tensor, Tensor] | None  # cosines and sines of the new tokens' positions


class RMSNorm(nn.Module):
    """Divide by the root mean square, then scale (Zhang & Sennrich 2019): no mean, no bias."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training or x.is_cuda:  # in one piece, which recorded steps cannot hold
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        x_float = x.float()  # a sum of squares needs more digits than bf16 has
        rms = x_float.pow(2).mean(-1, keepdim=True).add(self.eps).rsqrt()
        return (x_float * rms).to(x.dtype) * self.weight


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_eps)
    return nn.LayerNorm(config.width, config.norm_eps)


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, D] of rotary positions (Su et al. 2021), in float32.

    Feature d and feature d + D/2 form a pair, turned by position * theta^(-2d/D): Hugging Face's
    order of features. `rope_scaling` slows the turning down for longer texts: "linear" divides
    every angle by `factor` (Chen et al. 2023), "llama3" only those of the slow features.
    """
    D = config.head_width
    frequency_D = config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)
    scaling = config.rope_scaling or {"rope_type": "default"}
    if scaling["rope_type"] == "linear":
        frequency_D = frequency_D / scaling["factor"]
    elif scaling["rope_type"] == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns_D = scaling["original_max_position_embeddings"] * frequency_D / (2 * math.pi)
        keep_D = ((turns_D - low) / (high - low)).clamp(0, 1)  # 1: fast feature, left as it is
        frequency_D = frequency_D * (keep_D + (1 - keep_D) / scaling["factor"])
    angle_TD = torch.outer(torch.arange(config.context).float(), frequency_D).repeat(1, 2)
    return angle_TD.cos(), angle_TD.sin()


def rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features by its position's angle; cos and sin broadcast to x."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Every token reads from the tokens before it, through H heads at once."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.H, self.K, self.D = config.n_head, config.kv_heads, config.head_width
        self.layer, self.window = layer, config.window_of(layer)
        self.scale = self.D**-0.5 if config.attention_scale else 1.0
        # One matrix for queries, keys and values: one large product instead of three small ones.
        self.qkv = nn.Linear(config.width, (self.H + 2 * self.K) * self.D, bias=config.qkv_bias)
        self.out = nn.Linear(self.H * self.D, config.width, bias=config.out_bias)

    def project(self, x_BTC: Tensor, rotary: Rotary) -> tuple[Tensor, ...]:
        """Queries [B, H, T, D], keys and values [B, K, T, D] of the new tokens."""
        B, T, _ = x_BTC.shape
        heads_BHTD = self.qkv(x_BTC).view(B, T, self.H + 2 * self.K, self.D).transpose(1, 2)
        q_BHTD, k_BKTD, v_BKTD = heads_BHTD.split((self.H, self.K, self.K), dim=1)
        if rotary is not None:
            q_BHTD, k_BKTD = rotate(q_BHTD, *rotary), rotate(k_BKTD, *rotary)
        return q_BHTD, k_BKTD, v_BKTD

    def forward(
        self, x_BTC: Tensor, rotary: Rotary = None, mask: Tensor | None = None,
        cache: KVCache | None = None, pos_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        q_BHTD, k_BKSD, v_BKSD = self.project(x_BTC, rotary)
        if cache is not None:
            if mask is None:  # the cache holds the new tokens and no others
                cache.fill(self.layer, k_BKSD, v_BKSD)
            else:
                cache.write(self.layer, k_BKSD, v_BKSD, pos_BT)
                k_BKSD, v_BKSD = cache.read(self.layer, x_BTC.shape[0], mask.shape[-1])
                if x_BTC.shape[1] == 1:
                    y_BH1D = attend_alone(q_BHTD, k_BKSD, v_BKSD, mask, self.scale)
                    return self.out(y_BH1D.view(-1, 1, self.H * self.D))
        y_BHTD = attend(q_BHTD, k_BKSD, v_BKSD, mask, self.scale)
        return self.out(y_BHTD.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Each token thinks for itself: widen, bend, narrow. Gated (Shazeer 2020) or plain."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gated = config.mlp == "gated_silu"
        hidden = config.mlp_hidden
        self.up = nn.Linear(config.width, hidden * (1 + self.gated), bias=config.mlp_bias)
        self.down = nn.Linear(hidden, config.width, bias=config.mlp_bias)

    def activate(self, x_BTC: Tensor) -> Tensor:
        """The activations of the F neurons: [B, T, F]."""
        if not self.gated:
            return F.gelu(self.up(x_BTC), approximate="tanh")
        gate_BTF, value_BTF = self.up(x_BTC).chunk(2, dim=-1)
        return F.silu(gate_BTF) * value_BTF

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(self.activate(x_BTC))


class Block(nn.Module):
    """Read from the other tokens, then think; each adds to what the token already knew."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm, self.attention = make_norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = make_norm(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTC: Tensor, rotary: Rotary = None, mask: Tensor | None = None,
        cache: KVCache | None = None, pos_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        y_BTC = self.attention(self.attention_norm(x_BTC), rotary, mask, cache, pos_BT)
        x_BTC = x_BTC + self.dropout(y_BTC)
        return x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC)))


class Transformer(nn.Module):
    """Embedding, blocks, norm, head. `model(tokens)` gives the logits of every next token."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.position = None
        if config.position == "learned":
            self.position = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.dropout = nn.Dropout(config.dropout)
        if config.position == "rotary":  # buffers made from the config, not learned
            for name, table in zip(("cos", "sin"), rotary_tables(config)):
                self.register_buffer(name, table, persistent=False)
        if not self.head.weight.is_meta:  # shapes alone have nothing to draw into
            self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: N(0, 0.02^2), biases 0, as GPT-2; but see `look_back`.

        The two matrices of a block that write into the residual stream get 0.02 / sqrt(2 L), so
        that the stream does not grow with depth (Radford et al. 2019, section 2.3).
        """
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                nn.init.constant_(weight, 1.0 if name.endswith("norm.weight") else 0.0)
            else:
                writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if writes else 0.02
                nn.init.normal_(weight, std=std, generator=generator)
        if self.config.position == "rotary" and self.config.qkv_bias and self.config.n_layer:
            self.look_back()

    @torch.no_grad()
    def look_back(self) -> None:
        """Two heads of the first block are born reading the token before, and the one before that.

        Whatever the tokens are: with biases b and u, query t and key s score b R(s - t) u, which
        depends on their distance alone (R turns by the rotary angles). It is largest at distance n
        for b = R(-n) u, and falls off fast for a u in the features that turn fastest. Models learn
        such heads anyway; here they need not wait for them.
        """
        attention = self.blocks[0].attention
        H, K, D = attention.H, attention.K, attention.D
        q_bias_HD, k_bias_KD, _ = attention.qkv.bias.view(-1, D).split((H, K, K))
        u_D = torch.zeros_like(q_bias_HD[0])
        u_D[: min(3, D // 2)] = math.sqrt(2.2 * math.sqrt(D))  # each adds 2.2 to the peak
        for n in range(1, 1 + min(2, K, self.config.context - 1)):
            k_bias_KD[n - 1] = u_D
            q_bias_HD[(n - 1) * (H // K)] = rotate(u_D, self.cos[n], -self.sin[n])

    def features(
        self,
        tokens_BT: Tensor,
        cache: KVCache | None = None,
        pos_BT: Tensor | None = None,
        slots: int | None = None,
    ) -> Tensor:
        """What the blocks make of the tokens, normed and ready for the head: [B, T, C].

        With a cache, `pos_BT` says where in its row each new token stands; its key and value go
        there, and it reads what the cache holds up to there: of its first `slots` slots (None:
        up to the last position given). Without, the tokens are the whole text, from position 0.
        """
        T = tokens_BT.shape[1]
        if cache is None:
            if T > self.config.context:
                raise ValueError(f"{T} tokens exceed the context of {self.config.context}")
            pos, slots = torch.arange(T, device=tokens_BT.device), T
        else:
            pos, slots = pos_BT, int(pos_BT.max()) + 1 if slots is None else slots
        x_BTC, rotary = self.embedding(tokens_BT), None
        if self.position is not None:
            x_BTC = x_BTC + self.position(pos)
        else:
            cos, sin = self.cos[pos].to(x_BTC.dtype), self.sin[pos].to(x_BTC.dtype)
            rotary = (cos, sin) if cache is None else (cos[:, None], sin[:, None])
        x_BTC = self.dropout(x_BTC)
        masks = {}  # None: the plain triangle
        for window in set(self.config.windows):
            plain = slots == T and not 0 < window < T
            masks[window] = None if plain else hide(visible(pos, slots, window), x_BTC.dtype)
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, rotary, masks[self.config.window_of(layer)], cache, pos_BT)
        return self.norm(x_BTC)

    def forward(
        self,
        tokens_BT: Tensor,
        cache: KVCache | None = None,
        pos_BT: Tensor | None = None,
        slots: int | None = None,
    ) -> Tensor:
        """tokens int64 [B, T] -> logits float [B, T, V].

        Raises:
            ValueError: more tokens than the model's context.
        """
        return self.head(self.features(tokens_BT, cache, pos_BT, slots))

    def n_parameters(self) -> int:  # tied weights count once
        return sum(weight.numel() for weight in self.parameters())
