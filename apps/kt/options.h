// Flags that several subcommands share, their checks, and the messages for values out of range.
// A type name with '|' ("ref|avx2") is a closed list of values; shell completion reads it from
// there. Thread rule: main thread.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "io/model_config.h"
#include "session/generate.h"
#include "session/session.h"

namespace kt::app {

/// Accepts whole numbers in [low, high].
CLI::Validator whole_number(std::int64_t low, std::int64_t high);
/// Accepts finite decimal numbers in [low, high].
CLI::Validator real_number(double low, double high);
/// Accepts one of `choices`, in any case, with a suggestion for near misses.
CLI::Validator one_of(std::vector<std::string> choices);

/// An option whose value is one of `choices`, which completion offers.
CLI::Option* add_choice(CLI::App& command, const std::string& name, std::string& value,
                        const std::vector<std::string>& choices, const std::string& description);

/// MODEL as a required positional.
void add_model_argument(CLI::App& command, std::string& model);

/// Heading of the flags below in help texts.
inline constexpr const char* kMachineGroup = "Model and machine";

/// --threads --act --kv --ctx --chunk.
void add_run_options(CLI::App& command, session::RunOptions& options);

/// Those and --isa --rules --plugin --trace --gpus --gpu-memory --defer-experts --gpu-graphs
/// --emulate-gpus
/// --emulate-nodes --device.
void add_model_options(CLI::App& command, session::Options& options);

struct SamplingArgs {
  engine::SamplingParams params;
  std::int64_t max_tokens = -1;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<std::string> logit_bias;  // "ID=V", moved into params by request()
  /// The sampling part of a text request. Throws kUsage for a malformed logit bias.
  session::TextRequest request() const;
  /// Puts the model's own sampling values where no flag was given.
  void advise(const io::SamplingAdvice& advice, engine::SamplingParams* sampling) const;
  const CLI::App* command = nullptr;  // knows which flags were given
};

/// --seed --temp … --max-tokens.
void add_sampling_options(CLI::App& command, SamplingArgs& args);

/// "  kt run model.gguf -p 'Once upon a time'\n" lines under a heading, for the end of a help text.
std::string examples(const std::vector<std::string>& lines);

}  // namespace kt::app
