"""What ops on quantised weights may be wrong by, from how activations are rounded."""
import torch

ACT_STEP = {"f32": 0.0, "q8": 1 / 254, "q16": 1 / 254 ** 2}  # of the largest of 32 values, at most half a level


def block_max(x: torch.Tensor) -> torch.Tensor:
    """Each value replaced by the largest magnitude of its block of 32."""
    blocks = x.abs().unflatten(-1, (-1, 32))
    return blocks.amax(-1, keepdim=True).expand_as(blocks).flatten(-2)


def linear_bound(x: torch.Tensor, w: torch.Tensor, act: str, tiles: bool) -> torch.Tensor:
    """Largest error of x @ w.T, [n_rows, n]: rounded activations, and additions in float32. tiles: the CPU may have
    rounded activations to bfloat16 instead."""
    x, w = x.double(), w.double()
    rounding = block_max(x) * ACT_STEP[act] if act != "f32" else torch.zeros_like(x)
    if tiles and act != "f32":
        rounding = torch.maximum(rounding, x.abs() * 2 ** -8)
    return (rounding * (1 + 2 ** -10)) @ w.abs().T + (x.abs() @ w.abs().T) * (x.shape[-1] + 8) * 2 ** -24


def moe_reference(x, ids, weights, gate, up, down, limit: float = 0.0) -> torch.Tensor:
    """Σ weight · down(silu(gate x) · up x) in float64; negative ids are left out."""
    x, out = x.double(), torch.zeros(x.shape, dtype=torch.float64)
    for row in range(x.shape[0]):
        for e, weight in zip(ids[row].tolist(), weights[row].tolist()):
            if e < 0:
                continue
            g, u = gate[e].double() @ x[row], up[e].double() @ x[row]
            if limit:
                g, u = g.clamp(max=limit), u.clamp(-limit, limit)
            out[row] += weight * (down[e].double() @ (torch.nn.functional.silu(g) * u))
    return out


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())
