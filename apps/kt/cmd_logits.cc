// kt logits: the logits of every position of a token sequence, for comparing with other programs.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "commands.h"
#include "input.h"
#include "options.h"
#include "progress.h"
#include "session/npy.h"
#include "session/registry.h"

namespace kt::app {
namespace {

struct LogitsArgs {
  session::Options options;
  std::string tokens_file;
  std::string output;
  bool decode = false;
};

int logits(LogitsArgs args) {
  engine::Request request;
  request.prompt = read_token_file(args.tokens_file);
  check_writable(args.output);
  const auto n_tokens = static_cast<std::int64_t>(request.prompt.size());
  args.options.need_text = false;
  // From the headers, so that a sequence too long for the model is refused before weights are read.
  const std::int64_t longest =
      io::open_weights(session::resolve_model(args.options.model))->config().max_context;
  if (longest > 0 && n_tokens > longest) {
    fail(ErrorCode::kTooLong, args.tokens_file,
         "holds {} tokens, the model's context is {}; give fewer", n_tokens, longest);
  }
  if (args.options.context == 0) args.options.context = n_tokens;
  const auto loading = show_loading(args.options);
  const auto session = session::Session::open(args.options);
  loading->finish();
  session::NpyWriter writer(args.output, n_tokens, session->engine().vocab_size());
  request.prompt_by_decode = args.decode;
  request.sampling.temperature = 0.0f;
  request.max_tokens = 0;
  request.on_prompt_logits = [&writer](std::int64_t, std::span<const float> row) {
    writer.append(row);
  };
  Progress bar("computing");
  request.on_prefill = [&bar](std::int64_t done, std::int64_t total) {
    bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(total),
               fmt::format("{} / {} tokens", done, total));
  };
  const engine::Result result = session->engine().generate(std::move(request));
  bar.finish();
  writer.finish();
  finish_trace(*session, args.options.trace_file);
  return 0;
}

}  // namespace

void add_logits(CLI::App& root, Action& action) {
  auto args = std::make_shared<LogitsArgs>();
  CLI::App* command =
      root.add_subcommand("logits", "Write the logits of a token sequence to a .npy file");
  command->group("Measure");
  command->add_option("-m,--model", args->options.model, "A model file, folder or name")
      ->required()
      ->type_name("MODEL");
  command->add_option("--tokens-file", args->tokens_file, "A JSON array of token ids")
      ->required()
      ->type_name("FILE");
  command->add_option("-o,--output", args->output, "Float32 array [n_tokens, vocabulary]")
      ->required()
      ->type_name("FILE.npy");
  command->add_flag("--decode", args->decode, "Feed one token per step, as generation does");
  add_model_options(*command, args->options);
  command->footer(
      "--chunk sets the prefill step. --act f32 --kv f32 leaves only the weights' rounding.\n\n" +
      examples({"kt logits --model model.gguf --tokens-file ids.json --output logits.npy"}));
  command->callback([args, &action] { action = [args] { return logits(*args); }; });
}

}  // namespace kt::app
