/** Made-up content that shows every kind of rendering, shared by tests and screenshots. */
export const REPLY = `A mixture of experts runs only a few of its experts for each token.

| part | device | format |
|:--|:--|--:|
| attention | GPU | Q8_0 |
| experts | CPU | Q4_K |

The router's weight of expert $i$ among the chosen set $T$ is

$$
w_i = \\frac{e^{z_i}}{\\sum_{j \\in T} e^{z_j}}, \\qquad z \\in \\mathbb{R}^n
$$

\`\`\`python
def route(x, router, k=2):
    """Indices of the k best experts of one token."""
    logits = x @ router  # [n_experts]
    return sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
\`\`\`

So a model of 671 B parameters computes with 37 B of them, and memory that costs $5 or $10 a GB holds the rest.`;

export const THOUGHTS = 'The user wants to know why experts may stay in memory. A table, the formula and some code will do.';

export const CALLS = [
  { name: 'get_weather', arguments: { city: 'Paris', unit: 'celsius' } },
  { name: 'get_trains', arguments: { from: 'Paris', to: 'Lyon', days: ['2026-11-27', '2026-11-28'] } },
];

/** What must not reach out, run or break the content policy. */
export const HOSTILE = `![pixel](https://tracker.example/pixel.png) <img src="https://tracker.example/a.png" onerror="alert(1)">

<script>alert(1)</script><style>body{display:none}</style><p style="color:red">styled</p>

[bad](javascript:alert(1)) [good](https://example.com/)

$\\color{red}{x} + \\fcolorbox{red}{yellow}{y} + \\href{https://example.com}{z} + \\rule{1em}{1em} + \\boxed{q}$

\`\`\`html
<img src="https://tracker.example/b.png" style="color:red" onerror="alert(1)">
\`\`\`

<svg><use href="https://tracker.example/c.svg#x"/></svg> <iframe src="https://tracker.example"></iframe>`;

const layer = (index: number): object[] => [
  ['self_attn', 'MlaAttention', 'cuda:0', 'Q8_0', 96e6, 'attention reads the cache on the GPU', 0.04],
  ['mlp.experts', 'CpuExperts', 'cpu', 'Q4_K', 5.6e9, 'larger than what is left of GPU memory', 0.1],
  ['mlp.shared_experts', 'GpuMlp', 'cuda:0', 'Q8_0', 44e6, 'used by every token', 0.01],
  ['input_layernorm', 'RmsNorm', 'cuda:0', null, null, 'follows its layer', null],
].map(([name, operator, device, format, bytes, reason, share]) => ({
  path: `model.layers.${index}.${name}`, operator, device, format, bytes, reason, share,
}));

export const MODULES: object[] = [
  { path: 'model.embed_tokens', operator: 'CpuEmbedding', device: 'cpu', format: 'Q4_K', bytes: 520e6, reason: 'one row per token', share: 0.002 },
  ...Array.from({ length: 6 }, (_, i) => layer(i)).flat(),
  { path: 'lm_head', operator: 'GpuLinear', device: 'cuda:0', format: 'Q6_K', bytes: 760e6, reason: 'every step reads it', share: 0.02 },
];
