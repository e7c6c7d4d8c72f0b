"""The class `KTMoEWrapper` of the package kt-kernel, over this project's experts: one layer's routed experts on the
CPU, for frameworks that compute the rest of the model. docs/python-ops.md tells which of its parameters do what here.
"""
import concurrent.futures
import warnings
from typing import Optional, Sequence

import torch

from ktransformers import _native, ops
from ktransformers.errors import KtError, MismatchError, UnsupportedError, UsageError

# How the weights of a method are stored in a checkpoint, what becomes of them, and how they are kept then.
_METHODS = {
    "AMXINT4": ("fp8", "AMXInt4", ("Q4_0",)),
    "AMXINT8": ("fp8", "AMXInt8", ("Q8_0",)),
    "MOE_INT4": ("fp8", "AMXInt4", ("Q4_0",)),
    "MOE_INT8": ("fp8", "AMXInt8", ("Q8_0",)),
    "RAWINT4": ("compressed-tensors", "llamafile", ("I4_32", "I4_64", "I4_128")),
    "GPTQ_INT4": ("gptq", "llamafile", ("I4_32", "I4_64", "I4_128")),
    "FP8": ("fp8", "llamafile", ("F8_E4M3_B128",)),
    "FP8_PERCHANNEL": ("", "llamafile", ("F8_E4M3_B128",)),
    "BF16": ("", "llamafile", ("BF16",)),
    "MXFP4": ("mxfp4", "llamafile", ("MXFP4",)),
    "LLAMAFILE": ("", "llamafile", None),
}
_FROM_TENSORS = ("AMXINT4", "AMXINT8", "MOE_INT4", "MOE_INT8", "BF16")


def generate_gpu_experts_masks(activation_freq: torch.Tensor, num_gpu_experts: int) -> torch.Tensor:
    """The num_gpu_experts most used of all experts of all layers: bool [n_layers, n_experts], from counts or
    frequencies of the same shape. Of equals the first counts."""
    if activation_freq.dim() != 2:
        raise UsageError(f"activation_freq: has shape {list(activation_freq.shape)}; [n_layers, n_experts] is wanted",
                         "activation_freq")
    flat = activation_freq.detach().cpu().flatten()
    n = max(0, min(int(num_gpu_experts), flat.numel()))
    mask = torch.zeros(flat.numel(), dtype=torch.bool)
    mask[torch.argsort(flat, descending=True, stable=True)[:n]] = True
    return mask.view(activation_freq.shape)


def _nodes(threadpool_count: int, numa_nodes: Optional[Sequence[int]]) -> tuple[int, ...]:
    """NUMA nodes to use; (): all."""
    if numa_nodes is not None:
        if len(numa_nodes) != threadpool_count:
            raise UsageError(f"numa_nodes: names {len(numa_nodes)} nodes; threadpool_count asks for {threadpool_count}",
                             "numa_nodes")
        return tuple(numa_nodes)
    if threadpool_count < 1:
        raise UsageError(f"threadpool_count: is {threadpool_count}; at least 1 is wanted", "threadpool_count")
    there = _native.numa_nodes()
    if threadpool_count > len(there):
        warnings.warn(f"threadpool_count: {threadpool_count} NUMA nodes are asked for, this machine has {len(there)}; "
                      "all threads work there", stacklevel=4)
    return tuple(there[:threadpool_count]) if threadpool_count < len(there) else ()


def _refuse(what: str, path: str):
    raise UnsupportedError(f"{path}: {what}", path)


class KTMoEWrapper:
    """One layer's routed experts on the CPU.

    Load with `load_weights` or `load_weights_from_tensors`, then `forward`, or `submit_forward`, which returns at once
    while a thread computes, and `sync_forward`. Hidden states [n, hidden_size] are CPU tensors, usually bfloat16; so
    is the result. Experts of `gpu_experts_mask` add nothing, nor do ids that are negative or too large."""

    _worker = concurrent.futures.ThreadPoolExecutor(1, "ktransformers-experts")  # tasks of all layers, in order
    _deferred: dict[tuple[str, int], concurrent.futures.Future] = {}  # of (weight_path, layer), for the next layer
    _files: dict[str, _native.ExpertFiles] = {}
    _capture_batch_sizes: list[int] = []

    def __init__(self, layer_idx: int, num_experts: int, num_experts_per_tok: int, hidden_size: int,
                 moe_intermediate_size: int, gpu_experts_mask: Optional[torch.Tensor] = None,
                 cpuinfer_threads: int = 0, threadpool_count: int = 1, weight_path: str = "",
                 chunked_prefill_size: int = 8192, cpu_save: bool = False,
                 max_deferred_experts_per_token: Optional[int] = None, method: str = "AMXINT4", *,
                 numa_nodes: Optional[Sequence[int]] = None, mode: str = "inference", num_gpu_experts: int = 0,
                 lora_rank: int = 16, lora_alpha: float = 32.0, lora_dropout: float = 0.0, max_cache_depth: int = 1,
                 group_size: int = 128, zero_point: bool = True, full_weight_grad: bool = False,
                 swiglu_limit: float = 0.0, swiglu_alpha: float = 0.0):
        if mode != "inference":
            _refuse(f"'{mode}' is not here: fine-tuning through this class is not built, 'inference' is", "mode")
        if method not in _METHODS:
            _refuse(f"'{method}' is none of {', '.join(_METHODS)}", "method")
        if cpu_save:
            _refuse("packed weights belong to one CPU and are not written; `kt quantize` writes GGUF files", "cpu_save")
        if swiglu_alpha:
            _refuse("the activation with alpha (MXFP8) is not built", "swiglu_alpha")
        if swiglu_limit and method != "MXFP4":
            _refuse(f"only MXFP4 experts take a limit, not {method}", "swiglu_limit")
        if chunked_prefill_size < 1:
            raise UsageError(f"chunked_prefill_size: is {chunked_prefill_size}; at least 1 is wanted",
                             "chunked_prefill_size")
        deferred = max_deferred_experts_per_token or 0
        if not 0 <= deferred <= num_experts_per_tok:
            raise UsageError(f"max_deferred_experts_per_token: is {deferred}; 0 to {num_experts_per_tok} is wanted",
                             "max_deferred_experts_per_token")
        self.layer_idx, self.num_experts, self.num_experts_per_tok = layer_idx, num_experts, num_experts_per_tok
        self.hidden_size, self.moe_intermediate_size = hidden_size, moe_intermediate_size
        self.weight_path, self.method, self.chunked_prefill_size = str(weight_path), method, chunked_prefill_size
        self.max_deferred_experts_per_token = deferred
        self.swiglu_limit = float(swiglu_limit)
        self.gpu_experts_mask = self._mask(gpu_experts_mask)
        self.num_gpu_experts = int(self.gpu_experts_mask.sum())
        self._compute = ops.compute(cpuinfer_threads, _nodes(threadpool_count, numa_nodes))
        self._layer: Optional[_native.ExpertLayer] = None
        self._submitted: Optional[concurrent.futures.Future] = None

    def _mask(self, mask: Optional[torch.Tensor]) -> torch.Tensor:
        if mask is None:
            return torch.zeros(self.num_experts, dtype=torch.bool)
        if tuple(mask.shape) != (self.num_experts,):
            raise UsageError(f"gpu_experts_mask: has shape {list(mask.shape)}; [{self.num_experts}] is wanted",
                             "gpu_experts_mask")
        return mask.detach().to("cpu", torch.bool, copy=True).contiguous()

    # Loading.

    def _spec(self, mapping: Optional[torch.Tensor]) -> _native.ExpertSpec:
        spec = _native.ExpertSpec()
        spec.n_active, spec.d_model, spec.d_ff = self.num_experts_per_tok, self.hidden_size, self.moe_intermediate_size
        spec.logical = list(range(self.num_experts)) if mapping is None else mapping.flatten().tolist()
        if len(spec.logical) != self.num_experts:
            raise UsageError(f"physical_to_logical_map: has {len(spec.logical)} entries; {self.num_experts} are wanted",
                             "physical_to_logical_map")
        spec.backend, spec.swiglu_limit = _METHODS[self.method][1], self.swiglu_limit
        return spec

    def load_weights(self, physical_to_logical_map_cpu: Optional[torch.Tensor] = None) -> None:
        """Reads the layer from weight_path: expert i is expert map[i] of the checkpoint (none: i)."""
        spec = self._spec(physical_to_logical_map_cpu)
        quant, _, kept = _METHODS[self.method]
        if not self.weight_path:
            raise UsageError("weight_path: is empty; a folder is wanted, or load_weights_from_tensors", "weight_path")
        files = self._files.get(self.weight_path)
        if files is None:
            files = self._files[self.weight_path] = _native.ExpertFiles(self.weight_path)
        requantised = self.method in _FROM_TENSORS and self.method != "BF16"
        if files.is_gguf != (self.method == "LLAMAFILE") and not (files.is_gguf and requantised):
            raise MismatchError(f"{self.weight_path}: holds {'GGUF' if files.is_gguf else 'safetensors'} files; method "
                                f"{self.method} reads {'safetensors' if files.is_gguf else 'GGUF'}", self.weight_path)
        try:
            layer = _native.ExpertLayer.from_files(self._compute, spec, files, self.layer_idx, quant)
        except KtError as error:
            error.add_note(f"The method, {self.method}, says how the weights are stored; config.json is not read.")
            raise
        if kept is not None and layer.format not in kept:
            raise MismatchError(f"{self.weight_path}: layer {self.layer_idx} holds {layer.format} weights; method "
                                f"{self.method} is for {' or '.join(kept)}", self.weight_path)
        self._layer = layer

    def load_weights_from_tensors(self, gate_proj: torch.Tensor, up_proj: torch.Tensor, down_proj: torch.Tensor,
                                  physical_to_logical_map_cpu: Optional[torch.Tensor] = None) -> None:
        """Packs float tensors, gate and up [n_experts, moe_intermediate_size, hidden_size], down [n_experts,
        hidden_size, moe_intermediate_size], rounded as the method says; nothing keeps them."""
        if self.method not in _FROM_TENSORS:
            _refuse(f"{self.method} reads weights as they are stored; for tensors there are "
                    f"{', '.join(_FROM_TENSORS)}", "method")
        tensors = [t.detach().contiguous() for t in (gate_proj, up_proj, down_proj)]
        if self.method == "BF16":
            tensors = [t.bfloat16() for t in tensors]
        self._layer = _native.ExpertLayer.from_arrays(self._compute, self._spec(physical_to_logical_map_cpu), *tensors,
                                                      "")

    def force_release_loader(self) -> None:
        """Closes the checkpoint's files."""
        self._files.pop(self.weight_path, None)

    # Running.

    def select_deferred_experts(self, expert_ids: torch.Tensor, expert_scores: torch.Tensor,
                                protected_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each row's ids [n, k] the protected_k of the best scores, and the others; -1 in place of the rest."""
        k = expert_ids.shape[-1]
        best = expert_scores.topk(max(0, min(int(protected_k), k)), dim=-1).indices
        now = torch.zeros(expert_ids.shape, dtype=torch.bool, device=expert_ids.device).scatter_(-1, best, True)
        return expert_ids.masked_fill(~now, -1), expert_ids.masked_fill(now, -1)

    def _inputs(self, hidden_states, topk_ids, topk_weights, cuda_stream):
        if self._layer is None:
            raise UsageError("forward: nothing is loaded; call load_weights first", "forward")
        self._check_stream(cuda_stream)
        for name, x in (("hidden_states", hidden_states), ("topk_ids", topk_ids), ("topk_weights", topk_weights)):
            if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
                where = f"on device {x.device}" if isinstance(x, torch.Tensor) else type(x).__name__
                raise UsageError(f"{name}: is {where}; a CPU tensor is wanted", name)
        if hidden_states.dim() < 1 or hidden_states.shape[-1] != self.hidden_size:
            raise UsageError(f"hidden_states: has shape {list(hidden_states.shape)}; [.., {self.hidden_size}] is "
                             "wanted", "hidden_states")
        x = hidden_states.detach().reshape(hidden_states.numel() // self.hidden_size, self.hidden_size)
        for name, y in (("topk_ids", topk_ids), ("topk_weights", topk_weights)):
            if y.dim() < 2 or y.shape[:-1].numel() != x.shape[0] or y.shape[-1] != topk_ids.shape[-1]:
                raise UsageError(f"{name}: has shape {list(y.shape)}; [{x.shape[0]}, k] is wanted", name)
        # Copies, as the caller may go on writing.
        return (x.clone(memory_format=torch.contiguous_format),
                topk_ids.detach().flatten(0, -2).to(torch.int64, copy=True),
                topk_weights.detach().flatten(0, -2).to(torch.float32, copy=True))

    @staticmethod
    def _check_stream(cuda_stream) -> None:
        if cuda_stream:
            _refuse(f"is {cuda_stream}: experts run on the CPU alone, 0 or None is wanted", "cuda_stream")

    def _run(self, x, ids, weights, dtype, earlier: Optional[concurrent.futures.Future]) -> torch.Tensor:
        out = torch.empty(x.shape, dtype=dtype)
        self._layer.forward(x, ids.contiguous(), weights.contiguous(), out, self.gpu_experts_mask.view(torch.uint8),
                            earlier.result() if earlier is not None else None, self.chunked_prefill_size, False)
        return out

    def _take_deferred(self, n_rows: int) -> Optional[concurrent.futures.Future]:
        earlier = self._deferred.pop((self.weight_path, self.layer_idx - 1), None)
        if earlier is not None and earlier.n_rows != n_rows:
            raise UsageError(f"hidden_states: has {n_rows} rows; the experts that layer {self.layer_idx - 1} deferred "
                             f"have {earlier.n_rows}", "hidden_states")
        return earlier

    def submit_forward(self, hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor,
                       cuda_stream: Optional[int] = None) -> None:
        """Starts the layer on these rows and returns. topk_ids, topk_weights [n, k]."""
        x, ids, weights = self._inputs(hidden_states, topk_ids, topk_weights, cuda_stream)
        earlier = self._take_deferred(x.shape[0])
        later = None
        if self.max_deferred_experts_per_token:
            ids, later = self.select_deferred_experts(ids, weights, ids.shape[-1] - self.max_deferred_experts_per_token)
        self._submitted = self._worker.submit(self._run, x, ids, weights, x.dtype, earlier)
        if later is not None:
            deferred = self._worker.submit(self._run, x, later, weights, torch.float32, None)
            deferred.n_rows = x.shape[0]
            self._deferred[self.weight_path, self.layer_idx] = deferred

    def sync_forward(self, hidden_states: torch.Tensor, cuda_stream: Optional[int] = None) -> torch.Tensor:
        """The result of the last submit_forward, shaped like its hidden states. Experts that this layer deferred may
        still be computing: their sum is part of the next layer's result."""
        self._check_stream(cuda_stream)
        submitted, self._submitted = self._submitted, None
        if submitted is None:
            raise UsageError("sync_forward: nothing was submitted", "sync_forward")
        return submitted.result().view(hidden_states.shape)

    def forward(self, hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor,
                cuda_stream: Optional[int] = None) -> torch.Tensor:
        """submit_forward and sync_forward."""
        self.submit_forward(hidden_states, topk_ids, topk_weights, cuda_stream)
        return self.sync_forward(hidden_states, cuda_stream)

    # For GPUs.

    def submit_write_weight_scale_to_buffer(self, *_args, **_kwargs) -> None:
        """Not built: experts are not copied to GPUs."""
        _refuse("layer-wise prefill on GPUs is not built", "submit_write_weight_scale_to_buffer")

    def sync_write_weight_scale_to_buffer(self) -> None:
        """Not built: experts are not copied to GPUs."""
        _refuse("layer-wise prefill on GPUs is not built", "sync_write_weight_scale_to_buffer")

    # Settings of all layers.

    @staticmethod
    def set_capture_batch_sizes(capture_bs: list[int]) -> None:
        """Kept for callers to read; results get new tensors for every batch size."""
        KTMoEWrapper._capture_batch_sizes = list(capture_bs)

    @staticmethod
    def get_capture_batch_sizes() -> list[int]:
        """What set_capture_batch_sizes was given."""
        return list(KTMoEWrapper._capture_batch_sizes)

    @staticmethod
    def clear_buffer_cache() -> None:
        """Forgets deferred results and closes the checkpoints' files."""
        KTMoEWrapper._deferred.clear()
        KTMoEWrapper._files.clear()

    @staticmethod
    def clear_sft_buffer_cache() -> None:
        """There are no such buffers."""
