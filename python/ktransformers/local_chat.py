"""Chat in the terminal with an injected Transformers model: python -m ktransformers.local_chat --model_path … --gguf_path …

Each question is answered on its own, without the ones before. A line of three quotes begins and ends a question of
several lines; the name of a file asks what the file says; an empty line asks what --prompt_file says.
"""
import argparse
import os
import pathlib
import sys
from collections.abc import Iterator

RULES = {
    "DeepseekV2ForCausalLM": "DeepSeek-V2-Chat", "DeepseekV3ForCausalLM": "DeepSeek-V3-Chat",
    "KimiK2ForCausalLM": "Kimi-K2-Instruct", "Qwen2MoeForCausalLM": "Qwen2-57B-A14B-Instruct",
    "Qwen3MoeForCausalLM": "Qwen3Moe-serve", "LlamaForCausalLM": "Llama", "MixtralForCausalLM": "Mixtral",
    "MistralForCausalLM": "Mistral", "Qwen2ForCausalLM": "Qwen2", "Qwen3ForCausalLM": "Qwen3",
}
QUESTION = "Please write a piece of quicksort code in C++."


def flag(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ktransformers.local_chat", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True, help="folder with config.json and the tokenizer, or a name that "
                        "Transformers has cached; weights are not needed there")
    parser.add_argument("--gguf_path", required=True, help="the weights: a .gguf file, a folder of shards, or of "
                        "safetensors")
    parser.add_argument("--optimize_config_path", help="rule file; by architecture when not given")
    parser.add_argument("--max_new_tokens", type=int, default=1000)
    parser.add_argument("--cpu_infer", type=int, default=0, help="CPU threads; 0: the physical cores")
    parser.add_argument("--prompt_file", help="asked when the question is empty")
    parser.add_argument("--mode", default="normal", choices=["normal", "long_context"])
    parser.add_argument("--force_think", type=flag, nargs="?", const=True, default=False,
                        help="begin the answer with <think>")
    parser.add_argument("--chunk_size", type=int, default=512, help="prompt tokens computed at once")
    parser.add_argument("--device", default="cpu", help="of modules that no rule matches")
    parser.add_argument("--emulate_gpus", type=flag, nargs="?", const=True, default=False,
                        help="let the CPU compute what rules place on GPUs")
    parser.add_argument("--use_cuda_graph", type=flag, nargs="?", const=True, default=True, help="has no effect without a GPU")
    parser.add_argument("--trust_remote_code", type=flag, nargs="?", const=True, default=False,
                        help="run the Python code that comes with the model")
    return parser


def rule_file(architecture: str, rope: dict | None) -> pathlib.Path:
    from ktransformers.errors import UsageError
    if architecture not in RULES:
        raise UsageError(f"there is no rule file for {architecture}; give one", "--optimize_config_path")
    name = RULES[architecture]
    if name == "DeepSeek-V3-Chat" and (rope or {}).get("rope_type") != "yarn":
        name = "Moonlight-16B-A3B"  # the same but for the rotary embedding
    return pathlib.Path(__file__).parent / "rules" / f"{name}.yaml"


def questions(prompt_file: str | None) -> Iterator[str]:
    """What the user asks, until the end of the input."""
    while True:
        try:
            text = input("Chat: ")
            if text == '"""':
                lines: list[str] = []
                while (line := input()) != '"""':
                    lines.append(line)
                text = "\n".join(lines)
        except EOFError:
            print()
            return
        if text == "":
            text = pathlib.Path(prompt_file).read_text(encoding="utf-8") if prompt_file else QUESTION
        elif os.path.isfile(text):
            text = pathlib.Path(text).read_text(encoding="utf-8")
        yield text


def load(args: argparse.Namespace):
    """The model with its operators, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from ktransformers.optimize.optimize import optimize_and_load_gguf
    trust = {"trust_remote_code": args.trust_remote_code}
    config = AutoConfig.from_pretrained(args.model_path, **trust)
    tokenizer = AutoTokenizer.from_pretrained(args.model_path, **trust)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **trust)
    rules = args.optimize_config_path or rule_file(type(model).__name__, getattr(config, "rope_parameters", None))
    optimize_and_load_gguf(model, rules, args.gguf_path, config,
                           default_device="cuda:0" if args.emulate_gpus else args.device,
                           device_map={"cuda": "cpu"} if args.emulate_gpus else None, threads=args.cpu_infer,
                           chunk_size=args.chunk_size)
    try:
        model.generation_config = GenerationConfig.from_pretrained(args.model_path)
    except OSError:  # the model has none
        model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95)
    return model, tokenizer


def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    from ktransformers.errors import KtError, UnsupportedError
    from ktransformers.util.utils import prefill_and_generate
    try:
        if args.mode != "normal":
            raise UnsupportedError("the selection of blocks of a long context is not there", "--mode long_context")
        model, tokenizer = load(args)
        for text in questions(args.prompt_file):
            ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                                return_tensors="pt", return_dict=True)["input_ids"]
            prefill_and_generate(model, tokenizer, ids, args.max_new_tokens, args.use_cuda_graph, args.mode,
                                 args.force_think, args.chunk_size)
    except (KtError, OSError, ValueError) as error:  # the others: from Transformers, or files that the user names
        print(f"local_chat: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
