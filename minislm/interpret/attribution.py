"""Direct logit attribution: the logit of a token as an exact sum over parts of the model.

Block after block adds to the residual stream. With the scale of the final norm held at its value
the logits are linear in it (Elhage et al. 2021). In a model of one block every part but the MLP is
a function of single tokens; in a deeper one a head has read what earlier blocks wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minislm.interpret.activations import attention_weights
from minislm.model import Transformer, causal_mask


@dataclass(frozen=True)
class Attribution:
    """The logits of K tokens at one position, and the parts that they are sums of (float32)."""

    targets: list[int]  # the K token ids
    logits: Tensor  # [K], as the model computes them
    embedding: Tensor  # [K]: the direct path, from the last token's embedding alone
    position: Tensor  # [K]: from its learned position; 0 with rotary positions
    heads: Tensor  # [L, H, S, K]: from head h of block l, through the token that it read at s
    neurons: Tensor  # [L, F, K]: from each neuron of the MLP
    biases: Tensor  # [K]: of values, attention output, MLP and final norm

    @property
    def total(self) -> Tensor:
        """The sum of the parts: [K]."""
        heads, neurons = self.heads.sum((0, 1, 2)), self.neurons.sum((0, 1))
        return self.embedding + self.position + heads + neurons + self.biases

    @property
    def remainder(self) -> Tensor:
        """What rounding leaves: the logits minus the sum of the parts, [K]."""
        return self.logits - self.total


@torch.inference_mode()
def attribute(
    model: Transformer, tokens: Sequence[int], position: int, targets: Sequence[int] | None = None
) -> Attribution:
    """The parts of the logits after `tokens[position]`, which predict the token after it.
    targets: tokens whose logits are attributed; default: the two most probable. The difference of
    two columns shows why the model prefers one to the other.
    IndexError: a position outside the text. ValueError: more tokens than the model's context."""
    if not 0 <= position < len(tokens):
        raise IndexError(f"position {position} of a text of {len(tokens)} tokens")
    ids = torch.tensor(tokens[: position + 1], device=model.embedding.weight.device)
    logits_V = model(ids[None])[0, -1].float()
    chosen = logits_V.topk(2).indices.tolist() if targets is None else list(targets)
    stream = residual_parts(model, ids)
    d_KC, constant_K = _directions(model, chosen, stream["final"])
    heads, neurons = [], []
    for block, weights_HS, values_HSD, activations_F in stream["blocks"]:
        H, _, D = values_HSD.shape
        out_HDK = (d_KC @ block.attention.out.weight.float()).T.view(H, D, -1)
        heads.append(weights_HS[..., None] * (values_HSD @ out_HDK))
        neurons.append(activations_F[:, None] * (d_KC @ block.mlp.down.weight.float()).T)
    parts = [d_KC @ stream["embedding"], d_KC @ stream["position"], torch.stack(heads),
             torch.stack(neurons), constant_K + d_KC @ stream["biases"]]  # fmt: skip
    return Attribution(chosen, logits_V[chosen].cpu(), *(each.cpu() for each in parts))


def residual_parts(model: Transformer, ids: Tensor) -> dict[str, Any]:
    """What is added to the residual stream at the last of T tokens, in float32: "embedding",
    "position", "biases", and the sum of everything, "final", each [C]; and "blocks", for every
    block the module, its attention weights [H, S], values without bias [H, S, D] and activations
    of the neurons [F]."""
    pos_1T, rotary = torch.arange(len(ids), device=ids.device)[None], None
    x_1TC = model.embedding(ids)[None]
    biases_C, parts, blocks = torch.zeros_like(x_1TC[0, 0]).float(), {}, []
    parts["embedding"], parts["position"] = x_1TC[0, -1].float(), biases_C
    if model.position is not None:
        x_1TC = x_1TC + model.position(pos_1T)
        parts["position"] = model.position.weight[len(ids) - 1].float()
    else:
        rotary = tuple(each[pos_1T][:, None].to(x_1TC.dtype) for each in (model.cos, model.sin))
    for block in model.blocks:
        attention, mlp, bias = block.attention, block.mlp, block.attention.qkv.bias
        q_1HTD, *kv = attention.project(block.attention_norm(x_1TC), rotary)
        k_1HTD, v_1HTD = (x.repeat_interleave(attention.H // attention.K, 1) for x in kv)
        mask = causal_mask(pos_1T, len(ids), attention.window)[:, None]
        weights_1HTS = attention_weights(q_1HTD, k_1HTD, mask, attention.scale)
        z_1TI = (weights_1HTS @ v_1HTD.float()).transpose(1, 2).flatten(2)
        values_HTD = v_1HTD[0].float()
        if bias is not None:  # attention weights sum to 1, so it adds the same whatever is read
            bias_KD = bias.float().view(-1, attention.D)[-attention.K :]
            bias_HD = bias_KD.repeat_interleave(attention.H // attention.K, 0)
            values_HTD = values_HTD - bias_HD[:, None]
            biases_C = biases_C + attention.out.weight.float() @ bias_HD.flatten()
        x_1TC = x_1TC + attention.out(z_1TI.to(x_1TC.dtype))
        activations_1TF = mlp.activate(block.mlp_norm(x_1TC))
        x_1TC = x_1TC + mlp.down(activations_1TF)
        biases = [b.float() for b in (attention.out.bias, mlp.down.bias) if b is not None]
        biases_C = sum(biases, biases_C)
        blocks.append((block, weights_1HTS[0, :, -1], values_HTD, activations_1TF[0, -1].float()))
    return parts | {"biases": biases_C, "final": x_1TC[0, -1].float(), "blocks": blocks}


def _directions(model: Transformer, targets: list[int], final_C: Tensor) -> tuple[Tensor, Tensor]:
    """The final norm, at its scale for `final_C`, and the head as a linear map: the direction of
    each target's logit in the residual stream [K, C], and its constant [K]."""
    norm, u_KC = model.norm, model.head.weight[targets].float()
    d_KC, constant_K = u_KC * norm.weight.float(), torch.zeros_like(u_KC[:, 0])
    if isinstance(norm, nn.LayerNorm):
        d_KC, constant_K = d_KC - d_KC.mean(-1, keepdim=True), u_KC @ norm.bias.float()
        final_C = final_C - final_C.mean()
    return d_KC * (final_C.square().mean() + norm.eps).rsqrt(), constant_K
