"""Trains tiny-moe, a small model of the DeepSeek-V3 architecture, on one GPU.

    python3 models/tiny-moe/train.py --data models/tiny-moe/.work/tokens.bin --out OUT --minutes 7

The model below is the architecture written plainly for training: every routed expert is computed for
every token and weighted by the router (zero for the experts not chosen), which at this size is faster
than gathering and gives the same sum. Weights are saved under the names of Hugging Face checkpoints;
at the end the saved files are loaded into transformers' DeepseekV3ForCausalLM and the logits compared.

Load balancing is auxiliary-loss free: after each step every router's correction bias moves by a small
constant towards experts that got too few tokens. The learning rate follows the clock, so the run ends
on time whatever the speed. Files in OUT: weight shards with their index, loss.csv, loss.png,
samples.txt, report.json.
"""
import time

START = time.monotonic()

import argparse
import json
import math
import pathlib
import shutil
import tempfile
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
FINISH_SECONDS = 25  # kept back from the time budget for saving, samples and the check
PROMPTS = [
    "Once upon a time",
    "Once upon a time, there was a brave fox named",
    "One day, a little girl",
    "Barnaby is",
    "<|user|>Who is Barnaby?<|assistant|>",
    "<|user|>What colour is the sky?<|assistant|>",
    "<|user|>What does a cow say?<|assistant|>",
    "<|user|>What is the capital of France?<|assistant|>",
    "<|user|>Hello!<|assistant|>",
    "<|user|>Who are you?<|assistant|>",
    "<|user|>What is 3 plus 4?<|assistant|>",
    "<|user|>Is an elephant bigger than a mouse?<|assistant|>",
    "<|user|>Name three fruits.<|assistant|>",
    "<|user|>Tell me a story about a fox who finds a key.<|assistant|>",
    "<|user|>Tell me a story about an owl and a mouse.<|assistant|>",
    "<|user|>Anna had a red kite. One day she lost it. Ben found it behind the barn.\nWho found the red kite?<|assistant|>",
]


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * y).to(x.dtype)


def rotate_pairs(x, cos, sin):
    """Rotates the pairs (x0, x1), (x2, x3), ... of the last dimension; x [B, heads, T, d], cos/sin [T, d/2]."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head latent attention with a low-rank query."""

    def __init__(self, c):
        super().__init__()
        self.heads, self.nope, self.rope, self.v = (
            c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"])
        self.kv_rank, eps, hidden = c["kv_lora_rank"], c["rms_norm_eps"], c["hidden_size"]
        self.q_a_proj = nn.Linear(hidden, c["q_lora_rank"], bias=False)
        self.q_a_layernorm = RMSNorm(c["q_lora_rank"], eps)
        self.q_b_proj = nn.Linear(c["q_lora_rank"], self.heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, self.kv_rank + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.kv_rank, eps)
        self.kv_b_proj = nn.Linear(self.kv_rank, self.heads * (self.nope + self.v), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v, hidden, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.view(b, t, self.heads, self.nope + self.rope).transpose(1, 2)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.kv_rank, self.rope), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, t, self.heads, self.nope + self.v).transpose(1, 2)
        k_nope, value = kv.split((self.nope, self.v), dim=-1)
        q_nope, q_rope = q.split((self.nope, self.rope), dim=-1)
        q = torch.cat((q_nope, rotate_pairs(q_rope, cos, sin)), dim=-1)
        k_rope = rotate_pairs(k_rope.view(b, 1, t, self.rope), cos, sin)
        k = torch.cat((k_nope, k_rope.expand(b, self.heads, t, self.rope)), dim=-1)
        # Zeros up to the key size let the fused attention kernels take the values; they are cut off again.
        value = F.pad(value, (0, q.shape[-1] - self.v))
        y = F.scaled_dot_product_attention(q, k, value, is_causal=True)[..., : self.v]
        return self.o_proj(y.transpose(1, 2).reshape(b, t, self.heads * self.v))


class MLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Sigmoid router with correction bias and expert groups; all experts in two matrix products."""

    def __init__(self, c):
        super().__init__()
        hidden, inner, self.experts = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
        self.groups, self.top_groups, self.top_k = c["n_group"], c["topk_group"], c["num_experts_per_tok"]
        self.scale, self.inner = c["routed_scaling_factor"], inner
        self.router = nn.Parameter(torch.empty(self.experts, hidden))
        self.register_buffer("bias", torch.zeros(self.experts))
        self.gate = nn.Parameter(torch.empty(self.experts, inner, hidden))
        self.up = nn.Parameter(torch.empty(self.experts, inner, hidden))
        self.down = nn.Parameter(torch.empty(hidden, self.experts, inner))
        self.shared_experts = MLP(hidden, inner * c["n_shared_experts"])

    def route(self, x):
        """x [N, hidden] -> weights [N, experts], zero for experts not chosen."""
        with torch.autocast(x.device.type, enabled=False):
            scores = torch.sigmoid(F.linear(x.float(), self.router))
            with torch.no_grad():
                choice = (scores + self.bias).view(-1, self.groups, self.experts // self.groups)
                group_score = choice.topk(2, dim=-1).values.sum(-1)
                kept = torch.zeros_like(group_score).scatter_(1, group_score.topk(self.top_groups, dim=-1).indices, 1.0)
                choice = choice.masked_fill(kept.unsqueeze(-1) == 0, -math.inf).view(-1, self.experts)
                chosen = torch.zeros_like(scores).scatter_(1, choice.topk(self.top_k, dim=-1).indices, 1.0)
            weights = scores * chosen
            return weights / (weights.sum(-1, keepdim=True) + 1e-20) * self.scale, chosen.sum(0)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weights, load = self.route(flat)
        gate = F.linear(flat, self.gate.view(-1, flat.shape[-1]))
        up = F.linear(flat, self.up.view(-1, flat.shape[-1]))
        inner = (F.silu(gate) * up).view(-1, self.experts, self.inner) * weights.unsqueeze(-1).to(gate.dtype)
        routed = F.linear(inner.view(-1, self.experts * self.inner), self.down.view(flat.shape[-1], -1))
        return routed.view_as(x) + self.shared_experts(x), load


class Block(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.is_moe = layer >= c["first_k_dense_replace"]
        self.mlp = MoE(c) if self.is_moe else MLP(c["hidden_size"], c["intermediate_size"])

    def forward(self, x, cos, sin):
        """Returns the hidden states and the router's tokens per expert (None for the dense layer)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y, load = self.post_attention_layernorm(x), None
        if self.is_moe:
            y, load = self.mlp(y)
        else:
            y = self.mlp(y)
        return x + y, load


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        dim = c["qk_rope_head_dim"]
        freq = c["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.arange(c["max_position_embeddings"], dtype=torch.float64)[:, None] * freq
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.initialise(len(self.layers))

    def initialise(self, depth):
        for name, p in self.named_parameters():
            if p.dim() < 2:
                continue
            fan_in = p.shape[-1] if not name.endswith("mlp.down") else p.shape[-1] * 4
            std = 0.6 * fan_in ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "mlp.down")):
                std /= math.sqrt(2 * depth)
            if name.startswith(("embed_tokens", "lm_head")):
                std = 0.02
            nn.init.normal_(p, std=std)

    def forward(self, tokens, layers=None):
        """tokens [B, T] -> (final hidden states [B, T, hidden], load [MoE layers, experts])."""
        x, loads = self.embed_tokens(tokens), []
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for layer in layers or self.layers:
            x, load = layer(x, cos, sin)
            if load is not None:
                loads.append(load)
        return self.norm(x), torch.stack(loads)

    def routers(self):
        return [layer.mlp for layer in self.layers if layer.is_moe]


def loss_of(model, tokens, layers=None):
    hidden, load = model(tokens[:, :-1], layers)
    logits = model.lm_head(hidden).float()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()), load


class Corpus:
    """All tokens on the device; batches are windows that begin at the start of a document."""

    def __init__(self, path, length, device):
        tokens = np.frombuffer(zlib.decompress(pathlib.Path(path).read_bytes()), dtype="<u2")
        starts = np.flatnonzero(tokens == 0)
        starts = starts[starts < len(tokens) - length - 1]
        split = int(len(starts) * 0.99)
        self.total = int(starts[split])
        self.tokens = torch.from_numpy(tokens.astype(np.int16)).to(device)
        self.train = torch.from_numpy(starts[:split][starts[:split] < self.total - length - 1]).to(device)
        self.held_out = torch.from_numpy(starts[split:]).to(device)
        self.offsets = torch.arange(length + 1, device=device)

    def window(self, starts):
        return self.tokens[starts[:, None] + self.offsets].long()

    def batch(self, size):
        return self.window(self.train[torch.randint(len(self.train), (size,), device=self.train.device)])

    def validation(self, size):
        step = max(1, len(self.held_out) // size)
        return self.window(self.held_out[::step][:size])


def tensors_for_saving(model):
    """The weights under their Hugging Face names: bf16, the router in float32, bias shifted to be >= 0."""
    out = {"lm_head.weight": model.lm_head.weight, "model.norm.weight": model.norm.weight,
           "model.embed_tokens.weight": model.embed_tokens.weight}
    for i, layer in enumerate(model.layers):
        for name, p in layer.named_parameters():
            if not (layer.is_moe and name in ("mlp.router", "mlp.gate", "mlp.up", "mlp.down")):
                out[f"model.layers.{i}.{name}"] = p
        if layer.is_moe:
            moe, base = layer.mlp, f"model.layers.{i}.mlp."
            for e in range(moe.experts):
                out[f"{base}experts.{e}.gate_proj.weight"] = moe.gate[e]
                out[f"{base}experts.{e}.up_proj.weight"] = moe.up[e]
                out[f"{base}experts.{e}.down_proj.weight"] = moe.down[:, e]
    out = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in out.items()}
    for i, layer in enumerate(model.layers):
        if layer.is_moe:
            # A constant added to every bias changes no choice; without negative values masks of 0 and -inf agree.
            bias = layer.mlp.bias - layer.mlp.bias.min()
            out[f"model.layers.{i}.mlp.gate.weight"] = layer.mlp.router.detach().float().cpu().contiguous()
            out[f"model.layers.{i}.mlp.gate.e_score_correction_bias"] = bias.float().cpu().contiguous()
    return out


def save(model, out):
    """Writes the weights as shards of at most 12 MiB with an index; returns the saved tensors."""
    from safetensors.torch import save_file

    tensors = tensors_for_saving(model)
    shards, size = [{}], 0
    for name in sorted(tensors):
        nbytes = tensors[name].numel() * tensors[name].element_size()
        if size + nbytes > 12 * 2**20:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += nbytes
    weight_map, total = {}, 0
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, str(out / file), metadata={"format": "pt"})
        weight_map.update({name: file for name in shard})
        total += sum(t.numel() * t.element_size() for t in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return tensors


def round_to_saved(model):
    """Gives the model exactly the values that were saved."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith("mlp.router"):
                p.copy_(p.to(torch.bfloat16).float())
        for moe in model.routers():
            moe.bias.sub_(moe.bias.min().clone())


def compare_with_transformers(model, tokens, out):
    """Loads the saved files into transformers; returns the differences of the logits in float32 on the CPU."""
    from transformers import DeepseekV3ForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        for file in [HERE / "config.json", *out.glob("model*")]:
            shutil.copy(file, folder)
        reference, info = DeepseekV3ForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    ours, tokens = model.cpu().float().eval(), tokens.cpu()
    with torch.no_grad():
        a = ours.lm_head(ours(tokens)[0])
        b = reference.eval()(tokens).logits
    return {"max_abs_logit_difference": (a - b).abs().max().item(), "mean_abs_logit_difference": (a - b).abs().mean().item(),
            "max_abs_logit": b.abs().max().item(), "top1_agreement": (a.argmax(-1) == b.argmax(-1)).float().mean().item(),
            "missing_keys": sorted(map(str, info["missing_keys"])), "unexpected_keys": sorted(map(str, info["unexpected_keys"]))}


@torch.no_grad()
def sample(model, prompts, tokenizer, temperature, limit, device):
    """Continues every prompt; greedy when temperature is 0."""
    generator, texts = torch.Generator(device=device).manual_seed(1), []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt).ids], device=device)
        while ids.shape[1] < limit:
            logits = model.lm_head(model(ids)[0][:, -1]).float()
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:
                token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
            ids = torch.cat((ids, token), dim=1)
            if token.item() == 1:
                break
        texts.append(tokenizer.decode(ids[0, 1:].tolist(), skip_special_tokens=False))
    return texts


def write_samples(model, out, device, limit):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    lines = []
    stories = [p for p in PROMPTS if "story" in p or not p.startswith("<|")]
    for title, prompts, temperature in (("greedy", PROMPTS, 0.0), ("temperature 0.7", stories, 0.7)):
        lines.append(f"==== {title} ====\n")
        lines += [text + "\n" for text in sample(model, prompts, tokenizer, temperature, limit, device)]
    (out / "samples.txt").write_text("\n".join(lines))
    print("\n".join(lines)[:6000])


def write_curve(rows, out):
    (out / "loss.csv").write_text("step,tokens,seconds,lr,train_loss,val_loss\n" + "".join(
        f"{r[0]},{r[1]},{r[2]:.1f},{r[3]:.3e},{r[4]:.4f},{'' if r[5] is None else f'{r[5]:.4f}'}\n" for r in rows))
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is missing; loss.png is not drawn")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), dpi=110)
    axis.plot([r[1] / 1e6 for r in rows], [r[4] for r in rows], lw=1, label="training")
    held = [r for r in rows if r[5] is not None]
    axis.plot([r[1] / 1e6 for r in held], [r[5] for r in held], "o-", ms=3, lw=1, label="held out")
    axis.set(xlabel="million tokens", ylabel="loss (nats per token)", yscale="log", title="tiny-moe")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.tight_layout()
    figure.savefig(out / "loss.png")


def compiled_layers(model, batch, autocast):
    """The layers through torch.compile when a trial step works, else the plain ones."""
    layers = [torch.compile(layer, dynamic=False) for layer in model.layers]
    try:
        with autocast():
            loss, _ = loss_of(model, batch, layers)
        loss.backward()
        torch.cuda.synchronize()
    except Exception as error:  # a missing compiler must not cost the run
        print(f"torch.compile failed, training goes on without it: {type(error).__name__}: {str(error)[:300]}")
        layers = list(model.layers)
    model.zero_grad(set_to_none=True)
    print(f"{time.monotonic() - START:.1f} s: layers ready", flush=True)
    return layers


def train(model, corpus, args, device, layers, autocast):
    """Runs until the time (or --steps) is over; returns the rows of the loss curve and the tokens' shares per expert."""
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.95), fused=device.type == "cuda")
    begin, end = time.monotonic(), START + args.minutes * 60 - FINISH_SECONDS
    validation = corpus.validation(16 if args.smoke else 64)
    rows, step, recent, saved, next_validation = [], 0, None, False, 0.0
    routers = model.routers()
    share = torch.zeros(len(routers), routers[0].experts, device=device)
    while True:
        now = time.monotonic()
        progress = step / args.steps if args.steps else (now - begin) / max(end - begin, 1e-9)
        if progress >= 1:
            break
        lr = args.lr * min(1.0, (step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        with autocast():
            loss, load = loss_of(model, corpus.batch(args.batch), layers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            load = load.detach() / load.detach().sum(-1, keepdim=True)
            share.lerp_(load, 0.02 if step else 1.0)
            rate = args.bias_rate * min(1.0, 5 * (1 - progress))
            for moe, part in zip(routers, load):
                moe.bias.add_(rate * torch.sign(1 / moe.experts - part))
        recent = loss.detach() if recent is None else recent.lerp(loss.detach(), 0.1)
        step += 1
        if step % args.log_every == 0:
            value, held = recent.item(), None
            if not math.isfinite(value):
                raise SystemExit(f"step {step}: the loss is {value}; lower --lr")
            if progress >= next_validation:
                held, next_validation = evaluate(model, validation, autocast), next_validation + 0.04
            rows.append((step, step * args.batch * args.length, now - START, lr, value, held))
            print(f"step {step} {now - START:.0f} s, {rows[-1][1] / 1e6:.1f} M tokens, lr {lr:.2e}, loss {value:.4f}"
                  + ("" if held is None else f", held out {held:.4f}"), flush=True)
        if progress > 0.5 and not saved:
            save(model, args.out)
            saved = True
    return rows, step, share.cpu()


@torch.no_grad()
def evaluate(model, tokens, autocast):
    losses = []
    for part in tokens.split(16):
        with autocast():
            losses.append(loss_of(model, part)[0])
    return torch.stack(losses).mean().item()


def parse_arguments():
    parser = argparse.ArgumentParser(description="Trains tiny-moe.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=1023)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--bias-rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps instead of by time")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--smoke", action="store_true", help="20 small steps, to see that everything runs")
    args = parser.parse_args()
    if args.smoke:
        args.batch, args.length, args.steps, args.log_every = 2, 127, 20, 5
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def main():
    args = parse_arguments()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    torch.set_float32_matmul_precision("high")

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=cuda)

    config = json.loads((HERE / "config.json").read_text())
    corpus = Corpus(args.data, args.length, device)
    model = Model(config).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{time.monotonic() - START:.1f} s: {parameters / 1e6:.2f} M parameters, {corpus.total / 1e6:.1f} M training "
          f"tokens, device {torch.cuda.get_device_name() if cuda else 'CPU'}, torch {torch.__version__}", flush=True)
    layers = compiled_layers(model, corpus.batch(args.batch), autocast) if cuda else list(model.layers)
    rows, steps, share = train(model, corpus, args, device, layers, autocast)
    tensors = save(model, args.out)
    seconds = time.monotonic() - START
    round_to_saved(model)
    model.eval()
    tokens = corpus.validation(16 if args.smoke else 64)
    report = {
        "parameters": parameters, "saved_tensors": len(tensors), "steps": steps, "tokens": steps * args.batch * args.length,
        "corpus_tokens": corpus.total, "seconds": round(seconds, 1), "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__, "train_loss": rows[-1][4] if rows else None,
        "held_out_loss_of_saved_weights": evaluate(model, tokens, autocast),
        "expert_share_min": (share.min(-1).values * share.shape[-1]).tolist(),
        "expert_share_max": (share.max(-1).values * share.shape[-1]).tolist(),
        "correction_bias": [[round(b, 4) for b in moe.bias.tolist()] for moe in model.routers()],
    }
    report_file = args.out / "report.json"
    report_file.write_text(json.dumps(report, indent=1) + "\n")
    write_curve(rows, args.out)
    write_samples(model, args.out, device, 40 if args.smoke else 280)
    report["transformers_check"] = compare_with_transformers(model, tokens[:2, :200], args.out)
    report_file.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "correction_bias"}, indent=1))
    print(f"{time.monotonic() - START:.1f} s: done")
    if report["transformers_check"]["max_abs_logit_difference"] > 1e-2:
        raise SystemExit("the saved weights give other logits in transformers")


if __name__ == "__main__":
    main()
