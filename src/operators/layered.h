// A model whose layers can be run one at a time over a long prompt (layer-wise prefill): the outer
// loop goes over layers, the inner one over chunks of rows, so that a layer's prefill operators
// need their weights once per prompt.
//
//   embed(chunk) for all → for each layer: run_layer(chunk) for all → head(chunk) for all
//
// The results are those of Model::run chunk by chunk. Thread rule: as Model::run.
#pragma once
#include "operators/kinds.h"

namespace kt::operators {

class Layered {
 public:
  virtual ~Layered() = default;
  virtual std::int64_t n_layers() const = 0;
  virtual std::int64_t d_model() const = 0;
  virtual Module& layer(std::int64_t index) = 0;
  /// x [n_rows, d_model] = embedding of the step's tokens.
  virtual void embed(Step& step, MatrixF x) noexcept = 0;
  /// Runs a layer on the rows; `delta` holds its last sublayer's output for the layer after it.
  virtual void run_layer(Step& step, std::int64_t index, MatrixF x, MatrixF delta) noexcept = 0;
  /// Rows that left the last layer, normed: [batch.logit_rows.size(), d_model], in the step's
  /// arena.
  virtual ConstMatrixF hidden(Step& step, MatrixF x, MatrixF delta) noexcept = 0;
  /// Model::run up to these rows.
  virtual ConstMatrixF run_hidden(Step& step) noexcept = 0;
  /// logits [hidden.n_rows, vocab_size] of rows that hidden() or run_hidden() gave, or a part of
  /// them.
  virtual void project(Step& step, ConstMatrixF hidden, MatrixF logits) noexcept = 0;
  /// logits [batch.logit_rows.size(), vocab_size] of rows that left the last layer.
  virtual void head(Step& step, MatrixF x, MatrixF delta, MatrixF logits) noexcept = 0;
};

}  // namespace kt::operators
