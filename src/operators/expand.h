// Latent attention of one sequence with keys and values written out per head:
//
//   k[h, p] = [K_h · latent[p], k_pe[p]],   v[h, p] = V_h · latent[p],   out[h] = softmax(q·kᵀ) v
//
// A worker takes a head: its keys and values are made span by span, once for all query rows, and
// running sums go on from span to span, so that the work memory does not grow with the context.
// Results of a row do not depend on the other rows. Thread rule: as Module::run.
#pragma once
#include "io/model_config.h"
#include "operators/head_matrices.h"

namespace kt::operators {

struct ExpandArgs {
  const HeadMatrices* k = nullptr;  // [nope, kv_lora] per head
  const HeadMatrices* v = nullptr;  // [v, kv_lora] per head
  std::int64_t rope_dim = 0;
  float scale = 1.0f;
  tensor::KvStreamView cache;  // [latent, k_pe] per position; holds the query rows too
  SequenceRows rows;           // of the queries; row_begin is not used
  tensor::ConstMatrixF q;      // [n_rows, n_heads, nope + rope]
  tensor::MatrixF out;         // [n_rows, n_heads, v]
};

void attend_expanded(Step& step, const ExpandArgs& args) noexcept;

/// Floats of work memory that it takes at most for n_rows query rows.
std::int64_t expand_floats(const io::MlaConfig& mla, std::int64_t n_rows, std::int64_t n_threads);

}  // namespace kt::operators
