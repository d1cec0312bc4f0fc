"""The transformer, from the token embedding to the logits.

A decoder-only transformer (Vaswani et al. 2017; Radford et al. 2019) with the norm before attention
and MLP. The options of `ModelConfig` turn the one `Block` below into Llama (the default), GPT-2 or
GPT-Neo, the family of the published TinyStories models.

The letters after a tensor's name are its axes:

    B  batch rows                        C  width of the residual stream
    T  new tokens (queries)              H  query heads
    S  positions of keys and values      K  key/value heads; H // K query heads share one
    V  vocabulary                        D  width of one head
    L  blocks                            F  width of the MLP"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minislm.config import ModelConfig
from minislm.kv_cache import KVCache
from minislm.runtime.errors import UserError

Rotary = tuple[Tensor, Tensor] | None  # cosines and sines of the positions of the new tokens


class RMSNorm(nn.Module):
    """Divide by the root mean square, then scale (Zhang & Sennrich 2019): no mean, no bias."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x_float = x.float()  # a sum of squares needs more digits than bfloat16 has
        inverse_rms = x_float.pow(2).mean(-1, keepdim=True).add(self.eps).rsqrt()
        return (x_float * inverse_rms).to(x.dtype) * self.weight


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, config.norm_eps)
    return nn.LayerNorm(config.width, config.norm_eps)


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, D] of rotary position embeddings (Su et al. 2021), in float32.

    Dimensions d and d + D/2 of a head form a pair, rotated by position * theta^(-2d/D): the order
    of Hugging Face."""
    if config.rope_scaling:
        raise UserError("rope_scaling is computed by minislm.load: open the model with it")
    D = config.head_width
    frequency_D = config.rope_theta ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)
    pos_T = torch.arange(config.context).float()
    if config.position == "run":  # from 0 to the context; wide steps separate the few places
        pos_T = 3.0 * torch.arange(config.context + 1)
    angle_TD = torch.outer(pos_T, frequency_D).repeat(1, 2)
    return angle_TD.cos(), angle_TD.sin()


def rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of dimensions by the angle of its position; cos, sin broadcast to x."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos + torch.cat((-second, first), dim=-1) * sin


def causal_mask(pos_BT: Tensor, length: int, window: int) -> Tensor:
    """Whether each query may attend to each of the first `length` positions: bool [B, T, S].

    A token attends to itself and to those before it; with a window, to the last `window` of these,
    itself included (the local attention of GPT-Neo)."""
    distance_BTS = pos_BT[..., None] - torch.arange(length, device=pos_BT.device)
    mask_BTS = distance_BTS >= 0
    return mask_BTS & (distance_BTS < window) if window else mask_BTS


class Attention(nn.Module):
    """Causal self-attention with H query heads; H // K of them share one key/value head."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.H, self.K, self.D = config.n_head, config.kv_heads, config.head_width
        self.layer, self.window = layer, config.window_of(layer)
        self.scale = config.qk_scale or (self.D**-0.5 if config.attention_scale else 1.0)
        self.normalized, self.null_cosine = config.qk_scale > 0, config.null_cosine or None
        # Queries, keys and values in one matrix: one large product instead of three small ones.
        self.qkv = nn.Linear(config.width, (self.H + 2 * self.K) * self.D, bias=config.qkv_bias)
        self.out = nn.Linear(self.H * self.D, config.width, bias=config.out_bias)

    def project(self, x_BTC: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, K, T, D] of the new tokens."""
        B, T, _ = x_BTC.shape
        heads_BHTD = self.qkv(x_BTC).view(B, T, self.H + 2 * self.K, self.D).transpose(1, 2)
        q_BHTD, k_BKTD, v_BKTD = heads_BHTD.split((self.H, self.K, self.K), dim=1)
        if self.normalized:
            q_BHTD, k_BKTD = F.normalize(q_BHTD, dim=-1), F.normalize(k_BKTD, dim=-1)
        if rotary is not None:
            q_BHTD, k_BKTD = rotate(q_BHTD, *rotary), rotate(k_BKTD, *rotary)
        return q_BHTD, k_BKTD, v_BKTD

    def add_null_key(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> list[Tensor]:
        """Shift the keys by one, behind a key with value 0 and the cosine `null_cosine` to every
        query, for which the last dimension is used. A query attends to tokens before its own, and
        to nothing where none is more similar."""
        q_BHTD = torch.cat((q_BHTD[..., :-1], torch.ones_like(q_BHTD[..., -1:])), dim=-1)
        k_BKSD = F.pad(k_BKSD[:, :, :-1, :-1], (0, 1, 1, 0))
        k_BKSD[:, :, 0, -1] = self.null_cosine or 0.0
        return [q_BHTD, k_BKSD, F.pad(v_BKSD[:, :, :-1], (0, 0, 1, 0))]

    def attend(
        self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1TS: Tensor | None
    ) -> Tensor:
        """softmax(q k^T scale) v, [B, H, T, D] (Vaswani et al. 2017, equation 1).

        mask_B1TS: what each query may attend to; None is the causal mask of a whole text."""
        return F.scaled_dot_product_attention(
            q_BHTD, k_BKSD, v_BKSD, attn_mask=mask_B1TS, is_causal=mask_B1TS is None,
            scale=self.scale, enable_gqa=self.H != self.K,
        )  # fmt: skip

    def forward(
        self, x_BTC: Tensor, rotary: Rotary, mask_B1TS: Tensor | None, cache: KVCache | None,
        pos_BT: Tensor,
    ) -> Tensor:  # fmt: skip
        q_BHTD, k_BKSD, v_BKSD = self.project(x_BTC, rotary)
        if cache is not None:
            k_BKSD, v_BKSD = cache.update(self.layer, k_BKSD, v_BKSD, pos_BT)
        if self.null_cosine is not None:
            q_BHTD, k_BKSD, v_BKSD = self.add_null_key(q_BHTD, k_BKSD, v_BKSD)
        y_BHTD = self.attend(q_BHTD, k_BKSD, v_BKSD, mask_B1TS)
        return self.out(y_BHTD.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Position-wise MLP: up-projection, GELU or gated SiLU (Shazeer 2020), down-projection."""

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
    """Attention, then MLP; each reads a normalised copy of the residual stream and adds to it."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm, self.attention = make_norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = make_norm(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTC: Tensor, rotary: Rotary, mask_B1TS: Tensor | None, cache: KVCache | None,
        pos_BT: Tensor,
    ) -> Tensor:  # fmt: skip
        y_BTC = self.attention(self.attention_norm(x_BTC), rotary, mask_B1TS, cache, pos_BT)
        x_BTC = x_BTC + self.dropout(y_BTC)
        return x_BTC + self.dropout(self.mlp(self.mlp_norm(x_BTC)))


class Transformer(nn.Module):
    """Embedding, blocks, norm, head. `model(tokens)` returns the logits of every next token."""

    cos: Tensor
    sin: Tensor

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
        if config.position in ("rotary", "run"):  # computed from the config, not learned
            for name, table in zip(("cos", "sin"), rotary_tables(config)):
                self.register_buffer(name, table, persistent=False)
        if not self.head.weight.is_meta:  # a model on the meta device has shapes and no memory
            self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Random weights as in GPT-2: N(0, 0.02^2), biases 0; and see previous_token_heads.

        The two matrices of a block that write into the residual stream get 0.02 / sqrt(2 L), so
        that the stream does not grow with depth (Radford et al. 2019, section 2.3)."""
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                nn.init.constant_(weight, 1.0 if name.endswith("norm.weight") else 0.0)
            else:
                writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if writes else 0.02
                nn.init.normal_(weight, std=std, generator=generator)
        if self.config.position == "rotary" and self.config.qkv_bias:
            self.previous_token_heads()

    @torch.no_grad()
    def previous_token_heads(self) -> None:
        """Initialise heads of the first block as previous-token heads, at distance 1, 2 and, in a
        model of one block, whose heads read single tokens, 3 and 4.

        With a query bias b and a key bias u, query t and key s score b R(s - t) u, whatever the
        tokens are (R rotates by the rotary angles). The score is largest at distance n for
        b = R(-n) u, and falls off fast for a u of high frequencies. Models learn such heads anyway.
        """
        attention = cast(Block, self.blocks[0]).attention
        H, K, D = attention.H, attention.K, attention.D
        q_bias_HD, k_bias_KD, _ = attention.qkv.bias.view(-1, D).split((H, K, K))
        u_D = torch.zeros_like(q_bias_HD[0])
        u_D[: min(3, D // 2)] = math.sqrt(2.2 * math.sqrt(D))  # each adds 2.2 to the largest score
        for n in range(1, 1 + min(4 if len(self.blocks) == 1 else 2, K, self.config.context - 1)):
            k_bias_KD[n - 1] = u_D
            q_bias_HD[(n - 1) * (H // K)] = rotate(u_D, self.cos[n], -self.sin[n])

    def places(self, tokens_BS: Tensor) -> Tensor:
        """1, 2, 3, ... along each run of the digits (`run_tokens`), 0 elsewhere: int64 [B, S]."""
        digits = torch.tensor(self.config.run_tokens, device=tokens_BS.device)
        inside_BS = torch.isin(tokens_BS, digits)
        index_S = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
        before_BS = torch.where(inside_BS, -1, index_S).cummax(dim=1).values  # the last other token
        return torch.where(inside_BS, index_S - before_BS, 0)

    def features(
        self, tokens_BT: Tensor, cache: KVCache | None = None, pos_BT: Tensor | None = None
    ) -> Tensor:
        """The final hidden states, from which the head computes the logits: [B, T, C].

        Without a cache, the tokens are whole texts from position 0. With one, `pos_BT` gives the
        position of every token in its row; its key and value are written there, and it attends to
        all positions of the cache up to its own.

        Raises:
            ValueError: more tokens than the model's context."""
        T = tokens_BT.shape[1]
        if pos_BT is None:
            if T > self.config.context:
                raise ValueError(f"{T} tokens exceed the context of {self.config.context}")
            pos_BT = torch.arange(T, device=tokens_BT.device)[None]
        x_BTC, rotary = self.embedding(tokens_BT), None
        if self.position is not None:
            x_BTC = x_BTC + self.position(pos_BT)
        elif self.config.position != "none":
            place_BT = pos_BT
            if self.config.position == "run":
                seen_BS = tokens_BT if cache is None else cache.update_tokens(tokens_BT, pos_BT)
                place_BT = self.places(seen_BS).gather(1, pos_BT.expand_as(tokens_BT))
            tables = self.cos, self.sin
            rotary = tuple(table[place_BT][:, None].to(x_BTC.dtype) for table in tables)
        x_BTC = self.dropout(x_BTC)
        length = T if cache is None else cache.length
        masks: dict[int, Tensor | None] = {}
        for window in set(self.config.windows):
            whole = length == T and not 0 < window < T
            masks[window] = None if whole else causal_mask(pos_BT, length, window)[:, None]
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, rotary, masks[self.config.window_of(layer)], cache, pos_BT)
        return self.norm(x_BTC)

    def forward(
        self, tokens_BT: Tensor, cache: KVCache | None = None, pos_BT: Tensor | None = None
    ) -> Tensor:
        """tokens int64 [B, T] -> logits float [B, T, V]; see `features`."""
        return self.head(self.features(tokens_BT, cache, pos_BT))

    def n_parameters(self) -> int:
        """Number of parameters; tied weights count once."""
        return sum(weight.numel() for weight in self.parameters())
