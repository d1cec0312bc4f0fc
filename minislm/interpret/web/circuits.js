"use strict";
// What the weights of one block with rotary positions show without a text: at its input a position
// holds norm(embedding) of its token, so queries, keys and values are tables with a row per token
// (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).
const NEAREST = 16;  // distances 0 to 15 between the token read and the last one
const OTHERS = 31;  // tokens that attention is shared with, for the weight of a single one
const SAME = 2;  // skip-trigrams of a head with the same A, or the same C

// Queries (scaled), keys and values of one head for some tokens, [ids.length, D] each. Values are
// without their bias: it adds the same whatever is read.
function headTables(model, h, ids) {
  const { H, K, D, C } = model, { qkv, attentionNorm } = model.blocks[0];
  const shared = Math.floor(h / (H / K)), normed = new Float32Array(C);
  const first = [h * D, (H + shared) * D, (H + K + shared) * D];
  const found = first.map(() => new Float32Array(ids.length * D));
  ids.forEach((id, a) => {
    norm(attentionNorm, model.embedding.subarray(id * C, (id + 1) * C), normed);
    first.forEach((row, part) => {
      for (let d = 0; d < D; d++) {
        const value = dot(normed, qkv.weight, (row + d) * C) + (qkv.bias && part < 2 ? qkv.bias[row + d] : 0);
        found[part][a * D + d] = part ? value : value * model.scale;
      }
    });
  });
  return found;
}

// Rows of D numbers, rotated by the angle of a distance.
function rotated(model, rows, distance) {
  const { D, cos, sin } = model, half = D / 2, found = new Float32Array(rows.length), at = distance * half;
  for (let base = 0; base < rows.length; base += D) {
    for (let d = 0; d < half; d++) {
      const a = rows[base + d], b = rows[base + d + half];
      found[base + d] = a * cos[at + d] - b * sin[at + d];
      found[base + d + half] = b * cos[at + d] + a * sin[at + d];
    }
  }
  return found;
}

// The mean score of a head at each distance, for tokens sampled independently with these frequencies.
function distanceProfile(model, h, ids, frequency, distances) {
  const { D, context } = model, { window } = model.blocks[0], [q, k] = headTables(model, h, ids);
  const mean = (rows) => {
    const found = new Float32Array(D);
    frequency.forEach((p, a) => { for (let d = 0; d < D; d++) found[d] += p * rows[a * D + d]; });
    return found;
  };
  const queries = mean(q), keys = mean(k), reach = Math.min(distances, window || context);
  return Array.from({ length: reach }, (_, d) => dot(rotated(model, queries, d), keys));
}

// The strongest skip-trigrams of a head, "A ... B -> C": at B the head reads A at its best distance,
// which raises the logit of C directly, above its mean over tokens. Also the share of the variance
// of scores (distances from 1 on) that the distance alone explains.
function skipTrigrams(model, h, ids, frequency, scale, most) {
  const { D } = model, A = ids.length, [q, k, v] = headTables(model, h, ids);
  const reach = Math.min(NEAREST, model.blocks[0].window || model.context);
  const best = new Float32Array(A * A).fill(-Infinity), place = new Uint8Array(A * A), sums = new Float64Array(A);
  let square = 0, byDistance = [];
  for (let d = 0; d < reach; d++) {
    const queriesAt = rotated(model, q, d);
    let mean = 0;
    for (let b = 0; b < A; b++) {
      for (let a = 0; a < A; a++) {
        let score = 0;
        for (let i = 0, x = b * D, y = a * D; i < D; i++, x++, y++) score += queriesAt[x] * k[y];
        sums[b] += frequency[a] * Math.exp(Math.min(80, score));
        if (!d) continue;
        const p = frequency[a] * frequency[b], at = b * A + a;
        mean += p * score;
        square += p * score * score;
        if (score > best[at]) [best[at], place[at]] = [score, d];
      }
    }
    if (d) byDistance.push(mean);
  }
  const n = byDistance.length, centre = byDistance.reduce((x, y) => x + y, 0) / n;
  const share = byDistance.reduce((x, y) => x + (y - centre) ** 2, 0) / n / (square / n - centre * centre);
  // For each A the B that gives it the largest weight among OTHERS.
  const weights = new Float64Array(A), queries = new Uint32Array(A);
  for (let b = 0; b < A; b++) {
    for (let a = 0; a < A; a++) {
      const own = Math.exp(Math.min(80, best[b * A + a])), weight = own / (own + (OTHERS * sums[b]) / reach);
      if (weight > weights[a]) [weights[a], queries[a]] = [weight, b];
    }
  }
  const found = [];
  for (let a = 0; a < A; a++) {
    const logits = directLogits(model, h, v.subarray(a * D, (a + 1) * D), scale);
    let mean = 0;
    ids.forEach((id, c) => { mean += frequency[c] * logits[id]; });
    for (const c of largest(ids.map((id) => logits[id]), SAME)) {
      const effect = weights[a] * (logits[ids[c]] - mean);
      found.push({ read: ids[a], query: ids[queries[a]], predicted: ids[c], distance: place[queries[a] * A + a],
        weight: weights[a], effect });
    }
  }
  found.sort((x, y) => y.effect - x.effect);
  const seen = new Map(), kept = found.filter(({ predicted }) => {
    seen.set(predicted, (seen.get(predicted) || 0) + 1);
    return seen.get(predicted) <= SAME;
  });
  return { trigrams: kept.slice(0, most), share };
}

// What one value of a head adds to the logits, at a factor of the final norm.
function directLogits(model, h, value, scale) {
  const { C, H, D, V, head } = model, { out } = model.blocks[0], added = new Float64Array(C), logits = new Float64Array(V);
  for (let o = 0; o < C; o++) added[o] = dot(value, out.weight, o * H * D + h * D);
  const mean = model.norm.bias ? added.reduce((x, y) => x + y, 0) / C : 0;
  for (let o = 0; o < C; o++) added[o] = (added[o] - mean) * model.norm.weight[o] * scale;
  for (let c = 0; c < V; c++) logits[c] = dot(added, head.weight, c * C);
  for (const id of model.unused) logits[id] = -Infinity;
  return logits;
}

// What follows a token by itself, with attention at its mean output: probabilities by the direct
// path (the MLP at its mean too, the final norm at `scale`), and with the MLP.
function afterToken(model, token, scale) {
  const { C, V } = model, block = model.blocks[0], x = new Float32Array(C), mean = new Float32Array(C);
  linear(block.out, block.headMeans, mean);
  for (let i = 0; i < C; i++) x[i] = model.embedding[token * C + i] + mean[i];
  const direct = Float32Array.from(x), normed = new Float32Array(C), logits = new Float32Array(V);
  linear(block.down, block.neuronMeans, mean);
  for (let i = 0; i < C; i++) direct[i] += mean[i];
  const centre = model.norm.bias ? direct.reduce((a, b) => a + b, 0) / C : 0;
  for (let i = 0; i < C; i++) {
    normed[i] = (direct[i] - centre) * scale * model.norm.weight[i] + (model.norm.bias ? model.norm.bias[i] : 0);
  }
  const read = () => {
    linear(model.head, normed, logits);
    for (const id of model.unused) logits[id] = -Infinity;
    return softmax(logits);
  };
  const found = { direct: read() }, hidden = new Float32Array(model.F * (model.gated ? 2 : 1));
  norm(block.mlpNorm, x, normed);
  linear(block.up, normed, hidden);
  const activations = Float32Array.from({ length: model.F }, (_, n) => (
    model.gated ? silu(hidden[n]) * hidden[model.F + n] : gelu(hidden[n])));
  linear(block.down, activations, mean);
  for (let i = 0; i < C; i++) x[i] += mean[i];
  norm(model.norm, x, normed);
  return { ...found, token: read() };
}

// The nearest of some tokens to one of them, by the cosine of their embeddings.
function embeddingNeighbours(model, ids, at, most) {
  const { C, embedding } = model, row = (id) => embedding.subarray(id * C, (id + 1) * C), own = row(ids[at]);
  const cosines = ids.map((id, k) => (k === at ? -Infinity : dot(own, row(id)) / Math.sqrt(dot(row(id), row(id)))));
  return largest(cosines, most).map((k) => ids[k]);
}
