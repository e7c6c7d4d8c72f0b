#include "io/model_config.h"

#include <algorithm>

namespace kt::io {

bool ModelConfig::sparse_layer(std::int64_t layer) const {
  if (moe.n_experts == 0 || layer < moe.n_dense_layers) return false;
  if (std::find(moe.dense_layers.begin(), moe.dense_layers.end(), layer) !=
      moe.dense_layers.end()) {
    return false;
  }
  return moe.layer_step <= 1 || (layer + 1) % moe.layer_step == 0;
}

}  // namespace kt::io
