"use strict";
// Direct logit attribution at the last position read (attribution.py has the same in Python): with
// the final norm's scale held, the logit of a token is a sum over the parts of the residual stream.

// The sum of each column of a matrix, weighted by d: d @ weight, [cols].
function transposed({ weight, rows, cols }, d) {
  const found = new Float64Array(cols);
  for (let o = 0, at = 0; o < rows; o++) {
    const scale = d[o];
    for (let i = 0; i < cols; i++, at++) found[i] += scale * weight[at];
  }
  return found;
}

function dot(a, b, offset = 0) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[offset + i];
  return sum;
}

// A direction before a norm: what the norm, held at `factor`, makes of it; and its constant.
function throughNorm({ weight, bias }, direction, factor) {
  const d = Float64Array.from(direction, (value, i) => value * weight[i]);
  const mean = bias ? d.reduce((sum, each) => sum + each, 0) / d.length : 0;
  return [d.map((value) => (value - mean) * factor), bias ? dot(direction, bias) : 0];
}

// The parts of the residual stream along a direction d [C], of the blocks before `blocks` and, with
// `middle`, the attention of that block too. Heads: [L][H] arrays over the positions read.
function partsAlong(model, d, blocks = model.L, middle = false) {
  const { H, K, D, C, length: T } = model, t = T - 1;
  const found = { embedding: dot(d, model.start), position: 0, biases: 0, heads: [], off: [], neurons: [] };
  if (model.position) found.position = dot(d, model.position, t * C);
  model.blocks.slice(0, blocks + middle).forEach((block, l) => {
    const out = transposed(block.out, d), width = K * D;
    const bias = block.qkv.bias ? block.qkv.bias.subarray((H + K) * D) : null;
    const off = new Float64Array(H), heads = [];
    for (let h = 0; h < H; h++) {
      const shared = Math.floor(h / (H / K)) * D, along = out.subarray(h * D, (h + 1) * D);
      const reads = new Float32Array(T), constant = bias ? dot(along, bias, shared) : 0;
      if (block.headsOff[h]) {
        off[h] = dot(along, block.headMeans, h * D);
      } else {
        found.biases += constant;
        for (let s = 0; s < T; s++) {
          const weight = block.weights[h * model.context + s];
          if (weight) reads[s] = weight * (dot(along, block.values, s * width + shared) - constant);
        }
      }
      heads.push(reads);
    }
    if (block.out.bias) found.biases += dot(d, block.out.bias);
    found.heads.push(heads);
    found.off.push(off);
    if (l === blocks) return;
    if (block.down.bias) found.biases += dot(d, block.down.bias);
    found.neurons.push(Float32Array.from(transposed(block.down, d), (v, n) => v * block.activations[n]));
  });
  return found;
}

function total(parts) {
  let sum = parts.embedding + parts.position + parts.biases;
  for (const heads of parts.heads) for (const reads of heads) for (const each of reads) sum += each;
  for (const off of parts.off) for (const each of off) sum += each;
  for (const neurons of parts.neurons) for (const each of neurons) sum += each;
  return sum;
}

// The account of the last position's logit of `target`, minus that of `rival` (an id; "mean": the
// mean over the vocabulary; null: nothing). predict() has been called.
function accountOf(model, target, rival) {
  const { C, V, head, logits } = model, u = new Float64Array(C);
  let value = logits[target];
  for (let i = 0; i < C; i++) u[i] = head.weight[target * C + i];
  if (rival === "mean") {
    const skipped = new Set(model.unused);
    const share = 1 / (V - skipped.size);
    for (let v = 0; v < V; v++) {
      if (skipped.has(v)) continue;
      value -= logits[v] * share;
      for (let i = 0; i < C; i++) u[i] -= head.weight[v * C + i] * share;
    }
  } else if (rival !== null) {
    value -= logits[rival];
    for (let i = 0; i < C; i++) u[i] -= head.weight[rival * C + i];
  }
  const [d, constant] = throughNorm(model.norm, u, model.finalFactor);
  const parts = partsAlong(model, d);
  parts.biases += constant;
  return Object.assign(parts, { value, remainder: value - total(parts) });
}

// The inputs of one neuron at the last position, each as a sum of parts: "gate" and "value" of a
// gated MLP, else "input". What is below it in the residual stream is all that it can read.
function neuronInputs(model, layer, neuron) {
  const block = model.blocks[layer], names = model.gated ? ["gate", "value"] : ["input"], found = {};
  names.forEach((name, k) => {
    const row = neuron + k * model.F, at = row * model.C;
    const weights = block.up.weight.subarray(at, at + model.C);
    const [d, constant] = throughNorm(block.mlpNorm, weights, block.factor);
    const parts = partsAlong(model, d, layer, true);
    parts.biases += constant + (block.up.bias ? block.up.bias[row] : 0);
    found[name] = Object.assign(parts, { value: total(parts) });
  });
  return found;
}

// The tokens whose logits a neuron raises most when it is active, by its output weights alone.
function promoted(model, layer, neuron, k) {
  const { weight, cols } = model.blocks[layer].down, u = new Float64Array(model.C);
  for (let i = 0; i < model.C; i++) u[i] = weight[i * cols + neuron] * model.norm.weight[i];
  const effects = new Float64Array(model.V);
  for (let v = 0; v < model.V; v++) effects[v] = dot(u, model.head.weight, v * model.C);
  for (const id of model.unused) effects[id] = 0;
  return { up: largest(effects, k), down: largest(effects.map((each) => -each), k) };
}
