// The batch sizes that an engine was built for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace dashdeploy::detail {

struct Profile {
  std::int64_t min, opt, max;
};

// The profile that accepts this batch and whose opt is nearest by ratio, the narrower one of two equals: as
// dashdeploy/runtime/tensorrt_session.py chooses.
//
// Throws Failure(DD_ARGUMENT): none accepts it.
inline std::int32_t choose_profile(const std::vector<Profile> &profiles, std::int64_t batch) {
  std::int32_t best = -1;
  std::pair<double, std::int64_t> nearest;
  std::string limits;
  for (std::size_t i = 0; i < profiles.size(); ++i) {
    const auto [min, opt, max] = profiles[i];
    limits += (i == 0 ? "" : ", ") + std::to_string(min) + " to " + std::to_string(max);
    if (batch < min || batch > max) continue;
    const double ratio = static_cast<double>(opt) / static_cast<double>(batch);
    const std::pair<double, std::int64_t> distance{std::max(ratio, 1 / ratio), max - min};
    if (best >= 0 && distance >= nearest) continue;
    best = static_cast<std::int32_t>(i);
    nearest = distance;
  }
  if (best < 0) fail(DD_ARGUMENT, "a batch of ", batch, " is outside of the engine's profiles (", limits, ")");
  return best;
}

}  // namespace dashdeploy::detail
