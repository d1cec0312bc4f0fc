"use strict";
// The transformer of model.py on typed arrays: one token at a time, with a cache of keys and values.
// After step() its buffers hold everything that account.js needs about the last position.

// The tensors of the page's data: matrices as int8 codes with a scale per row, bfloat16 or float32.
function readTensors(header, bytes) {
  const found = {};
  for (const [name, type, rows, cols, offset] of header.tensors) {
    const size = rows * cols, values = new Float32Array(size), at = bytes.byteOffset + offset;
    if (type === "int8") {
      const codes = new Int8Array(bytes.buffer, at, size);
      const scales = new Float32Array(bytes.buffer.slice(at + size, at + size + 4 * rows));
      for (let i = 0; i < size; i++) values[i] = codes[i] * scales[Math.floor(i / cols)];
    } else if (type === "bfloat16") {
      const halves = new Uint16Array(bytes.buffer.slice(at, at + 2 * size));
      const words = new Uint32Array(values.buffer);
      for (let i = 0; i < size; i++) words[i] = halves[i] << 16;
    } else {
      values.set(new Float32Array(bytes.buffer.slice(at, at + 4 * size)));
    }
    found[name] = { values, rows, cols };
  }
  return found;
}

function fromBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// y[o] = sum over i of weight[o, i] x[i] + bias[o]; four rows at a time share the loads of x.
function linear({ weight, bias, rows, cols }, x, y) {
  const f = Math.fround;
  let o = 0;
  for (; o + 3 < rows; o += 4) {
    const p = o * cols, q = p + cols, r = q + cols, s = r + cols;
    let a = f(0), b = f(0), c = f(0), d = f(0);
    for (let i = 0; i < cols; i++) {
      const v = x[i];
      a = f(a + f(weight[p + i] * v));
      b = f(b + f(weight[q + i] * v));
      c = f(c + f(weight[r + i] * v));
      d = f(d + f(weight[s + i] * v));
    }
    y[o] = a; y[o + 1] = b; y[o + 2] = c; y[o + 3] = d;
  }
  for (; o < rows; o++) {
    let a = 0;
    for (let i = 0, p = o * cols; i < cols; i++, p++) a += weight[p] * x[i];
    y[o] = a;
  }
  if (bias) for (let k = 0; k < rows; k++) y[k] += bias[k];
}

// y = norm(x): RMSNorm, or LayerNorm where there is a bias. Returns the factor that x is scaled by.
function norm({ weight, bias, eps }, x, y) {
  const n = x.length;
  let mean = 0, power = 0;
  if (bias) {
    for (let i = 0; i < n; i++) mean += x[i];
    mean /= n;
  }
  for (let i = 0; i < n; i++) power += (x[i] - mean) * (x[i] - mean);
  const factor = 1 / Math.sqrt(power / n + eps);
  for (let i = 0; i < n; i++) y[i] = (x[i] - mean) * factor * weight[i] + (bias ? bias[i] : 0);
  return factor;
}

const silu = (x) => x / (1 + Math.exp(-x));
const gelu = (x) => 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));

class Model {
  constructor(header, bytes) {
    const config = header.config, tensors = readTensors(header, bytes);
    const vector = (name) => (tensors[name] ? tensors[name].values : null);
    const matrix = (name) => {
      const { values, rows, cols } = tensors[name + ".weight"];
      return { weight: values, bias: vector(name + ".bias"), rows, cols };
    };
    const normOf = (name) =>
      ({ weight: vector(name + ".weight"), bias: vector(name + ".bias"), eps: config.norm_eps });
    Object.assign(this, config);  // L, H, K, D, C, F, V, context, gated, ...
    this.embedding = tensors["embedding.weight"].values;
    this.position = vector("position.weight");
    this.norm = normOf("norm");
    this.head = matrix(config.tied ? "embedding" : "head");
    this.blocks = [];
    for (let l = 0; l < this.L; l++) {
      const name = `blocks.${l}.`, size = this.context * this.K * this.D;
      this.blocks.push({
        attentionNorm: normOf(name + "attention_norm"), qkv: matrix(name + "attention.qkv"),
        out: matrix(name + "attention.out"), mlpNorm: normOf(name + "mlp_norm"),
        up: matrix(name + "mlp.up"), down: matrix(name + "mlp.down"), window: config.windows[l],
        keys: new Float32Array(size), values: new Float32Array(size),
        weights: new Float32Array(this.H * this.context),  // attention weights of the last position
        activations: new Float32Array(this.F), middle: new Float32Array(this.C), factor: 1,
        headMeans: tensors[`means.${l}.heads`].values, neuronMeans: tensors[`means.${l}.neurons`].values,
        headsOff: new Uint8Array(this.H), neuronsOff: new Uint8Array(this.F),
      });
    }
    const frequencies = vector("frequencies"), half = this.D / 2;
    if (frequencies) {
      this.cos = new Float32Array(this.context * half);
      this.sin = new Float32Array(this.context * half);
      for (let t = 0; t < this.context; t++) {
        for (let d = 0; d < half; d++) {
          const angle = Math.fround(t * frequencies[d]);
          this.cos[t * half + d] = Math.cos(angle);
          this.sin[t * half + d] = Math.sin(angle);
        }
      }
    }
    this.x = new Float32Array(this.C);
    this.start = new Float32Array(this.C);  // the embedding of the last token
    this.normed = new Float32Array(this.C);
    this.projected = new Float32Array((this.H + 2 * this.K) * this.D);
    this.mixed = new Float32Array(this.H * this.D);
    this.added = new Float32Array(this.C);
    this.hidden = new Float32Array(this.F * (this.gated ? 2 : 1));
    this.logits = new Float32Array(this.V);
    this.length = 0;  // tokens in the cache
    this.masked = -1;  // a position that no head may read, as if it were not there
  }

  // Replace the outputs of some heads and neurons ("head:0.3", "neuron:0.117") by their means.
  setOff(names) {
    for (const block of this.blocks) {
      block.headsOff.fill(0);
      block.neuronsOff.fill(0);
    }
    for (const name of names) {
      const match = /^(head|neuron):(\d+)\.(\d+)$/.exec(name);
      const block = match && this.blocks[match[2]];
      const switches = block && block[match[1] === "head" ? "headsOff" : "neuronsOff"];
      if (!switches || +match[3] >= switches.length) throw new Error(`there is no ${name}`);
      switches[match[3]] = 1;
    }
  }

  // Read one token at position `length`; afterwards `x` is the residual stream of that position.
  step(token) {
    const { C, x } = this, t = this.length;
    if (t >= this.context) throw new Error("the context is full");
    for (let i = 0; i < C; i++) {
      this.start[i] = this.embedding[token * C + i];
      x[i] = this.start[i] + (this.position ? this.position[t * C + i] : 0);
    }
    for (const block of this.blocks) {
      norm(block.attentionNorm, x, this.normed);
      linear(block.qkv, this.normed, this.projected);
      this.attend(block, t);
      linear(block.out, this.mixed, this.added);
      for (let i = 0; i < C; i++) block.middle[i] = x[i] += this.added[i];
      block.factor = norm(block.mlpNorm, x, this.normed);
      linear(block.up, this.normed, this.hidden);
      this.activate(block);
      linear(block.down, block.activations, this.added);
      for (let i = 0; i < C; i++) x[i] += this.added[i];
    }
    this.length = t + 1;
  }

  attend(block, t) {
    const { H, K, D, projected: p, mixed } = this, width = K * D, { keys, values } = block;
    if (this.cos) for (let h = 0; h < H + K; h++) this.rotate(h * D, t);
    keys.set(p.subarray(H * D, H * D + width), t * width);
    values.set(p.subarray(H * D + width), t * width);
    const first = block.window ? Math.max(0, t - block.window + 1) : 0;
    for (let h = 0; h < H; h++) {
      const shared = Math.floor(h / (H / K)) * D, base = h * this.context;
      const weights = block.weights;
      weights.fill(0, base, base + first);
      let largest = -Infinity, sum = 0;
      for (let s = first; s <= t; s++) {
        let score = 0;
        for (let d = 0, k = s * width + shared; d < D; d++, k++) score += p[h * D + d] * keys[k];
        weights[base + s] = score = s === this.masked ? -Infinity : score * this.scale;
        if (score > largest) largest = score;
      }
      for (let s = first; s <= t; s++) sum += weights[base + s] = Math.exp(weights[base + s] - largest);
      mixed.fill(0, h * D, (h + 1) * D);
      for (let s = first; s <= t; s++) {
        const a = weights[base + s] /= sum;
        for (let d = 0, k = s * width + shared; d < D; d++, k++) mixed[h * D + d] += a * values[k];
      }
      if (block.headsOff[h]) mixed.set(block.headMeans.subarray(h * D, (h + 1) * D), h * D);
    }
  }

  // Rotate dimensions d and d + D/2 of the head at `base` by the angle of position t.
  rotate(base, t) {
    const half = this.D / 2, p = this.projected;
    for (let d = 0; d < half; d++) {
      const a = p[base + d], b = p[base + d + half];
      const cos = this.cos[t * half + d], sin = this.sin[t * half + d];
      p[base + d] = a * cos - b * sin;
      p[base + d + half] = b * cos + a * sin;
    }
  }

  activate(block) {
    const { F, hidden } = this, { activations, neuronsOff, neuronMeans } = block;
    for (let n = 0; n < F; n++) {
      const value = this.gated ? silu(hidden[n]) * hidden[F + n] : gelu(hidden[n]);
      activations[n] = neuronsOff[n] ? neuronMeans[n] : value;
    }
  }

  // The logits after the last token; of ids without a token, -Infinity.
  predict() {
    this.finalFactor = norm(this.norm, this.x, this.normed);
    linear(this.head, this.normed, this.logits);
    for (const id of this.unused) this.logits[id] = -Infinity;
    return this.logits;
  }

  // Keep the first n positions of the cache.
  rewind(n) {
    this.length = n;
  }
}

// Probabilities of the logits at a temperature.
function softmax(logits, temperature = 1) {
  const p = new Float64Array(logits.length);
  let largest = -Infinity, sum = 0;
  for (const value of logits) if (value > largest) largest = value;
  for (let i = 0; i < p.length; i++) sum += p[i] = Math.exp((logits[i] - largest) / temperature);
  for (let i = 0; i < p.length; i++) p[i] /= sum;
  return p;
}

function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

// The ids of the k largest values, largest first.
function largest(values, k) {
  const found = [];
  for (let i = 0; i < values.length; i++) {
    if (found.length === k && values[i] <= values[found[k - 1]]) continue;
    let at = Math.min(found.length, k - 1);
    while (at > 0 && values[found[at - 1]] < values[i]) at--;
    found.splice(at, 0, i);
    found.length = Math.min(found.length, k);
  }
  return found;
}

// A token: greedy at temperature 0, else the inverse of the cumulative distribution at `uniform`.
function sample(logits, temperature, topK, uniform) {
  if (temperature < 1e-5) return argmax(logits);
  let p = softmax(logits, temperature);
  if (topK > 0 && topK < p.length) {
    const kept = new Float64Array(p.length);
    for (const i of largest(p, topK)) kept[i] = p[i];
    p = kept;
  }
  let threshold = uniform * p.reduce((sum, each) => sum + each, 0), last = 0;
  for (let i = 0; i < p.length; i++) {
    if (!p[i]) continue;
    last = i;
    if ((threshold -= p[i]) < 0) break;
  }
  return last;
}

// Uniform numbers in [0, 1) from a seed (mulberry32).
function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
