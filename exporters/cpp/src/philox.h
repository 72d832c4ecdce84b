// Noise by image and step: Philox4x32-10 (Salmon et al. 2011) with Box-Muller, as dashdeploy/diffusion/noise.py draws
// it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace dashdeploy::detail {

using Words = std::array<std::uint32_t, 4>;

inline Words philox4x32(Words counter, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ k0, static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ k1, static_cast<std::uint32_t>(first)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return counter;
}

// The noise of one image at one step, 0 being the start: block b of four numbers has the counter
// (b, step, image mod 2^32, image div 2^32).
inline void normal(std::uint64_t seed, std::uint64_t image, std::uint32_t step, std::int64_t size, float *out) {
  constexpr double two_pi = 6.283185307179586;
  for (std::int64_t at = 0; at < size; at += 4) {
    const Words words = philox4x32({static_cast<std::uint32_t>(at / 4), step, static_cast<std::uint32_t>(image),
                                    static_cast<std::uint32_t>(image >> 32)},
                                   static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
    double u[4];
    for (int i = 0; i < 4; ++i) u[i] = (words[i] + 0.5) * 0x1p-32;
    for (int i = 0; i < 4 && at + i < size; ++i) {
      const double radius = std::sqrt(-2.0 * std::log(u[i / 2 * 2])), angle = two_pi * u[i / 2 * 2 + 1];
      out[at + i] = static_cast<float>(radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle)));
    }
  }
}

}  // namespace dashdeploy::detail
