"""Direct logit attribution: the logit of a token as an exact sum over parts of the model.
With the scale of the final norm held, the logits are linear in the residual stream (Elhage et al.
2021). In one block all parts but the MLP are of single tokens; deeper heads read earlier blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minislm.interpret.activations import inputs_of, weights_and_values
from minislm.model import Transformer


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
    targets: tokens whose logits are attributed; default: the two most probable.
    IndexError: a position outside the text. ValueError: more tokens than the model's context."""
    if not 0 <= position < len(tokens):
        raise IndexError(f"position {position} of a text of {len(tokens)} tokens")
    modules = [each for block in model.blocks for each in (block.attention, block.mlp.down)]
    features_TC, inputs = inputs_of([*modules, model.norm], model, tokens[: position + 1])
    *inputs, (final_1TC,) = inputs
    logits_V = model.head(features_TC[-1]).float()
    chosen = logits_V.topk(2).indices.tolist() if targets is None else list(targets)
    norm, final_C, u_KC = model.norm, final_1TC[0, -1].float(), model.head.weight[chosen].float()
    d_KC, constant_K = u_KC * norm.weight.float(), torch.zeros_like(u_KC[:, 0])
    if isinstance(norm, nn.LayerNorm):
        d_KC, constant_K = d_KC - d_KC.mean(-1, keepdim=True), u_KC @ norm.bias.float()
        final_C = final_C - final_C.mean()
    d_KC = d_KC * (final_C.square().mean() + norm.eps).rsqrt()  # a logit's direction in the stream
    embedding_K = d_KC @ model.embedding.weight[tokens[position]].float()
    position_K = torch.zeros_like(embedding_K)
    if model.position is not None:
        position_K = d_KC @ model.position.weight[position].float()
    heads, neurons = [], []
    for block, (x_1TC, rotary, *_), (x_1TF,) in zip(model.blocks, inputs[::2], inputs[1::2]):
        attention, bias = block.attention, block.attention.qkv.bias
        weights_1HTS, v_1HSD = weights_and_values(attention, x_1TC, rotary)
        out_HDK = (d_KC @ attention.out.weight.float()).T.unflatten(0, (attention.H, -1))
        if bias is not None:  # attention weights sum to 1, so it adds the same whatever is read
            bias_KD = bias.float().view(-1, attention.D)[-attention.K :]
            bias_H1D = bias_KD.repeat_interleave(attention.H // attention.K, 0)[:, None]
            v_1HSD = v_1HSD - bias_H1D
            constant_K = constant_K + (bias_H1D @ out_HDK).sum((0, 1))
        for bias in (attention.out.bias, block.mlp.down.bias):
            constant_K = constant_K if bias is None else constant_K + d_KC @ bias.float()
        heads.append(weights_1HTS[0, :, -1, :, None] * (v_1HSD[0] @ out_HDK))
        neurons.append(x_1TF[0, -1, :, None].float() * (d_KC @ block.mlp.down.weight.float()).T)
    parts = embedding_K, position_K, torch.stack(heads), torch.stack(neurons), constant_K
    return Attribution(chosen, logits_V[chosen].cpu(), *(each.cpu() for each in parts))
