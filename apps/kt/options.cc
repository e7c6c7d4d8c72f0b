#include "options.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "base/error.h"
#include "base/suggest.h"
#include "base/utf8.h"

namespace kt::app {
namespace {

bool parse_whole(const std::string& text, std::int64_t* value) {
  if (text.empty()) return false;
  char* end = nullptr;
  errno = 0;
  const long long parsed = std::strtoll(text.c_str(), &end, 10);
  *value = parsed;
  return errno == 0 && *end == '\0' && end != text.c_str();
}

bool parse_real(const std::string& text, double* value) {
  if (text.empty()) return false;
  char* end = nullptr;
  *value = std::strtod(text.c_str(), &end);
  return *end == '\0' && end != text.c_str() && !std::isnan(*value);
}

std::string join(const std::vector<std::string>& words, const char* separator) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : separator) + word;
  return out;
}

template <class T>
CLI::Option* number(CLI::App& command, const char* name, T& value, const CLI::Validator& check,
                    const char* type, const char* description) {
  return command.add_option(name, value, description)
      ->check(check)
      ->type_name(type)
      ->capture_default_str();
}

}  // namespace

CLI::Validator whole_number(std::int64_t low, std::int64_t high) {
  return CLI::Validator(
      [low, high](std::string& text) -> std::string {
        std::int64_t value = 0;
        if (parse_whole(text, &value) && value >= low && value <= high) return {};
        if (high == std::numeric_limits<std::int64_t>::max()) {
          return fmt::format("'{}' is not a whole number from {} on", text, low);
        }
        return fmt::format("'{}' is not a whole number from {} to {}", text, low, high);
      },
      "");
}

CLI::Validator real_number(double low, double high) {
  return CLI::Validator(
      [low, high](std::string& text) -> std::string {
        double value = 0.0;
        if (parse_real(text, &value) && value >= low && value <= high) return {};
        return fmt::format("'{}' is not a number from {} to {}", text, low, high);
      },
      "");
}

CLI::Validator one_of(std::vector<std::string> choices) {
  return CLI::Validator(
      [choices = std::move(choices)](std::string& text) -> std::string {
        for (const std::string& choice : choices) {
          if (ascii_lower(text) == ascii_lower(choice)) {
            text = choice;
            return {};
          }
        }
        std::string message = fmt::format("'{}' is not one of {}", text, join(choices, ", "));
        if (const auto near = nearest(text, choices))
          message += fmt::format("; did you mean {}?", *near);
        return message;
      },
      "");
}

CLI::Option* add_choice(CLI::App& command, const std::string& name, std::string& value,
                        const std::vector<std::string>& choices, const std::string& description) {
  return command.add_option(name, value, description)
      ->transform(one_of(choices))
      ->type_name(join(choices, "|"));
}

void add_model_argument(CLI::App& command, std::string& model) {
  command
      .add_option(
          "MODEL", model,
          "A .gguf file, a folder with safetensors or GGUF shards, or a name from `kt list`")
      ->required()
      ->type_name("");
}

void add_run_options(CLI::App& command, session::RunOptions& options) {
  const std::string group = kMachineGroup;
  const std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();
  number(command, "-t,--threads", options.n_threads, whole_number(0, 1024), "N",
         "Threads; 0: the physical cores this process may use")
      ->group(group);
  add_choice(command, "--act", options.act, {"q8", "q16", "f32"},
             "Activations in quantised products: 8 bits (fastest), 15 bits (prompts: bf16 with "
             "AMX), or floats")
      ->capture_default_str()
      ->group(group);
  add_choice(command, "--kv", options.kv, {"f32", "f16", "bf16", "f8_e4m3", "q8_0"},
             "Type of the key/value cache; GPUs keep bf16, or f8_e4m3 as asked")
      ->capture_default_str()
      ->group(group);
  number(command, "-c,--ctx", options.context, whole_number(0, no_limit), "N",
         "Context in tokens; 0: the model's, at most 8192, and what fits")
      ->group(group);
  number(command, "--chunk", options.chunk_size, whole_number(0, 16384), "N",
         "Prompt tokens per prefill step; 0: 512, or 2048 where experts are streamed")
      ->group(group);
  add_choice(command, "--stream-experts", options.stream_experts, {"auto", "on", "off"},
             "Send experts of the CPU to the GPU for prompts: where that is faster, always, never")
      ->capture_default_str()
      ->group(group);
  add_choice(command, "--expert-cache", options.expert_cache, {"auto", "fixed", "off"},
             "Keep some experts of each layer in GPU memory: those used most, the same ones, or "
             "only whole layers")
      ->capture_default_str()
      ->group(group);
  number(command, "--gpus", options.gpus, whole_number(0, 8), "N",
         "GPUs of this machine to use at most; all that there are when not given")
      ->group(group);
  command
      .add_option_function<std::string>(
          "--gpu-memory",
          [&options](const std::string& text) {
            options.gpu_memory = placement::parse_bytes(text, "--gpu-memory");
          },
          "Memory of each GPU to use at most; what is free when not given")
      ->type_name("24GiB")
      ->group(group);
  command
      .add_option("--gpu-plugin", options.gpu_plugin,
                  "The GPU plug-in; libkt_cuda.so beside the program when not given")
      ->type_name("FILE")
      ->group(group);
}

void add_model_options(CLI::App& command, session::Options& options) {
  const std::string group = kMachineGroup;
  add_run_options(command, options);
  add_choice(command, "--isa", options.isa, {"ref", "avx2", "avx512", "amx"},
             "Instruction set; the best of this CPU when not given")
      ->group(group);
  add_choice(command, "--speculate", options.speculate, {"none", "prompt-lookup"},
             "Guess tokens from the text so far, where that is faster; the output stays the same")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--rules", options.rules,
                  "YAML rule file that says what runs where; planned when not given")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--plugin", options.plugins,
                  "Shared object with operators that the rules may name; may be repeated")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--trace", options.trace_file,
                  "Write a Chrome trace (ui.perfetto.dev) with one zone per module path")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--expert-profile", options.expert_profile,
                  "Which experts GPUs begin with: uses that were saved, or an imatrix (GGUF)")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--save-expert-profile", options.save_expert_profile,
                  "Write at the end how often each expert was chosen")
      ->type_name("FILE")
      ->group(group);
  number(command, "--defer-experts", options.defer_experts, whole_number(0, 64), "N",
         "Let N of a token's CPU experts come a layer later, beside the GPU; changes values")
      ->group(group);
  add_choice(command, "--gpu-graphs", options.gpu_graphs, {"on", "off"},
             "Replay decoding steps on GPUs instead of launching kernel by kernel")
      ->capture_default_str()
      ->group(group);
  number(command, "--emulate-gpus", options.emulate_gpus, whole_number(0, 64), "N",
         "Accept rules for N GPUs and let the CPU compute their part, to try a rule file")
      ->group(group);
  number(command, "--emulate-nodes", options.emulate_nodes, whole_number(0, 64), "N",
         "Run as on N NUMA nodes, to try how weights are divided; 0: those of this machine")
      ->group(group);
  command
      .add_option("--device", options.device,
                  "Device of modules that no rule matches; cpu when not given")
      ->type_name("DEVICE")
      ->group(group);
}

void add_sampling_options(CLI::App& command, SamplingArgs& args) {
  const std::string group = "Sampling (not given: the model's own value, else the default)";
  const std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();
  engine::SamplingParams& p = args.params;
  args.command = &command;
  number(command, "-n,--max-tokens", args.max_tokens, whole_number(-1, no_limit), "N",
         "Tokens to generate at most; -1: until the model ends or the context is full")
      ->group(group);
  number(command, "--seed", p.seed, whole_number(0, no_limit), "N",
         "Same seed, same text; 0: a new one each time")
      ->group(group);
  number(command, "--temp", p.temperature, real_number(0, 100), "T",
         "Temperature; 0: always the likeliest")
      ->group(group);
  number(command, "--top-k", p.top_k, whole_number(0, 1 << 30), "K", "Keep the K likeliest; 0: off")
      ->group(group);
  number(command, "--top-p", p.top_p, real_number(0, 1), "P",
         "Keep the likeliest that sum to P; 1: off")
      ->group(group);
  number(command, "--min-p", p.min_p, real_number(0, 1), "P",
         "Drop what is less likely than P times the likeliest; 0: off")
      ->group(group);
  number(command, "--typical", p.typical_p, real_number(0, 1), "P",
         "Locally typical sampling; 1: off")
      ->group(group);
  number(command, "--repeat-penalty", p.repetition_penalty, real_number(0, 100), "X",
         "Divides the logits of repeated tokens; 1: off")
      ->group(group);
  number(command, "--frequency-penalty", p.frequency_penalty, real_number(-100, 100), "X",
         "Subtracted per occurrence; 0: off")
      ->group(group);
  number(command, "--presence-penalty", p.presence_penalty, real_number(-100, 100), "X",
         "Subtracted once per token seen; 0: off")
      ->group(group);
  number(command, "--repeat-last-n", p.repeat_last_n, whole_number(-1, 1 << 30), "N",
         "Tokens the penalties look back; -1: all")
      ->group(group);
  command
      .add_option("--logit-bias", args.logit_bias,
                  "Adds V to the logit of token ID; may be repeated")
      ->type_name("ID=V")
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--stop", args.stop, "Ends the text before this string; may be repeated")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(group);
  command.add_flag("--ignore-eos", args.ignore_eos, "Go on after the model's end token")
      ->group(group);
}

session::TextRequest SamplingArgs::request() const {
  session::TextRequest request;
  request.sampling = params;
  request.max_tokens = max_tokens;
  request.ignore_eos = ignore_eos;
  request.stop = stop;
  for (const std::string& text : stop) {
    if (text.empty())
      fail(ErrorCode::kUsage, "--stop", "an empty stop string would end every text");
  }
  for (const std::string& entry : logit_bias) {
    const std::size_t equals = entry.find('=');
    std::int64_t id = 0;
    double bias = 0.0;
    if (equals == std::string::npos || !parse_whole(entry.substr(0, equals), &id) || id < 0 ||
        id > std::numeric_limits<std::int32_t>::max() ||
        !parse_real(entry.substr(equals + 1), &bias)) {
      fail(ErrorCode::kUsage, "--logit-bias", "'{}' is not ID=V, such as 42=-1.5 or 42=-inf",
           entry);
    }
    request.sampling.logit_bias[static_cast<std::int32_t>(id)] = static_cast<float>(bias);
  }
  return request;
}

void SamplingArgs::advise(const io::SamplingAdvice& advice,
                          engine::SamplingParams* sampling) const {
  const engine::SamplingParams advised = session::advised_sampling(advice);
  const auto set = [&](const char* flag, auto field) {
    if (command->count(flag) == 0) sampling->*field = advised.*field;
  };
  set("--temp", &engine::SamplingParams::temperature);
  set("--top-k", &engine::SamplingParams::top_k);
  set("--top-p", &engine::SamplingParams::top_p);
  set("--min-p", &engine::SamplingParams::min_p);
  set("--typical", &engine::SamplingParams::typical_p);
  set("--repeat-penalty", &engine::SamplingParams::repetition_penalty);
}

std::string examples(const std::vector<std::string>& lines) {
  std::string text = "Examples:\n";
  for (const std::string& line : lines) text += "  " + line + "\n";
  text.pop_back();
  return text;
}

}  // namespace kt::app
