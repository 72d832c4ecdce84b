// Timesteps, guidance over time and the DDIM update. Compiled without contraction of a * b + c, which would round
// differently from Python.
#include "schedule.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace dashdeploy::detail {
namespace {

dd_guidance of_artifact(const Guidance &guidance) {
  return {guidance.kind, guidance.w, guidance.w_min, guidance.beta, guidance.low, guidance.high, nullptr};
}

void check(const dd_guidance &guidance) {
  const auto scale = [](double value) { return std::isfinite(value) && value >= 0; };
  switch (guidance.kind) {
    case DD_GUIDANCE_CONSTANT:
      if (!scale(guidance.w)) fail(DD_ARGUMENT, "guidance: w is ", guidance.w, "; expected a number >= 0 (1 = off)");
      return;
    case DD_GUIDANCE_TAG:
      if (!scale(guidance.w) || !scale(guidance.w_min) || !std::isfinite(guidance.beta))
        fail(DD_ARGUMENT, "guidance: TAG needs w_min and w >= 0 and a finite beta");
      return;
    case DD_GUIDANCE_INTERVAL:
      if (!scale(guidance.w) || !(guidance.low >= 0 && guidance.low < guidance.high && guidance.high <= 1))
        fail(DD_ARGUMENT, "guidance: an interval needs w >= 0 and 0 <= low < high <= 1");
      return;
    case DD_GUIDANCE_SCHEDULE:
      if (guidance.schedule == nullptr) fail(DD_ARGUMENT, "guidance: schedule is NULL");
      return;
    case DD_GUIDANCE_DEFAULT:
      return;
  }
  fail(DD_ARGUMENT, "guidance: kind ", static_cast<int>(guidance.kind), " is not known");
}

double weight(const dd_guidance &guidance, std::int64_t t, std::int64_t total) {
  const double share = static_cast<double>(t) / static_cast<double>(total);
  if (guidance.kind == DD_GUIDANCE_INTERVAL) return guidance.low <= share && share < guidance.high ? guidance.w : 1.0;
  if (guidance.kind != DD_GUIDANCE_TAG) return guidance.w;
  const double gate = 1.0 / (1.0 + std::exp(-guidance.beta * (0.5 - share)));
  return guidance.w_min + (guidance.w - guidance.w_min) * gate;
}

}  // namespace

std::vector<float> alphas_cumprod(const std::vector<double> &betas) {
  std::vector<float> alphas = {1.0F};
  alphas.reserve(betas.size() + 1);
  double product = 1.0;
  for (const double beta : betas) {
    product *= 1.0 - beta;
    alphas.push_back(static_cast<float>(product));
  }
  return alphas;
}

std::vector<std::int64_t> timesteps(std::int64_t steps, std::int64_t total, const std::string &spacing) {
  std::vector<std::int64_t> descending(static_cast<std::size_t>(steps));
  // std::nearbyint rounds halves to even, as numpy does; the expressions are those of numpy's linspace and arange.
  const auto at = [&](std::int64_t i) -> std::int64_t {
    if (spacing == "leading") return (steps - 1 - i) * (total / steps);
    if (spacing == "linspace") {
      const std::int64_t k = steps - 1 - i;
      const double last = static_cast<double>(total - 1);
      if (steps == 1) return 0;
      if (k == steps - 1) return total - 1;
      return static_cast<std::int64_t>(
          std::nearbyint(static_cast<double>(k) * (last / static_cast<double>(steps - 1))));
    }
    const double start = static_cast<double>(total), second = start + -start / static_cast<double>(steps);
    return static_cast<std::int64_t>(std::nearbyint(start + static_cast<double>(i) * (second - start))) - 1;
  };
  for (std::int64_t i = 0; i < steps; ++i) descending[static_cast<std::size_t>(i)] = at(i);
  return descending;
}

void check_scale(const Manifest &manifest, float w) {
  if (manifest.branches == 2) return;
  const auto low = static_cast<float>(manifest.guidance_low), high = static_cast<float>(manifest.guidance_high);
  if (!(w >= low && w <= high))
    fail(DD_ARGUMENT, "guidance: the scale ", w, " is out of range: this student has one branch, trained for ", low,
         " ... ", high);
}

namespace {

// The plan of these timesteps; `usual`: they are as many as the artifact's, whose scales are the default.
Plan guided(const Manifest &manifest, const std::vector<std::int64_t> &t, const dd_guidance &asked, bool usual) {
  const SamplingPlan &sampling = manifest.sampling;
  check(asked);
  Plan made;
  made.t = t;
  made.t_prev.assign(made.t.begin() + 1, made.t.end());
  made.t_prev.push_back(-1);
  if (sampling.consistency) std::fill(made.t_prev.begin(), made.t_prev.end(), -1);
  if (asked.kind == DD_GUIDANCE_DEFAULT && usual) {
    made.w = sampling.guidance_scales;
    return made;
  }
  const dd_guidance guidance = asked.kind == DD_GUIDANCE_DEFAULT ? of_artifact(sampling.guidance) : asked;
  for (std::size_t i = 0; i < made.t.size(); ++i) {
    const bool given = guidance.kind == DD_GUIDANCE_SCHEDULE;
    const std::int64_t total = manifest.num_train_timesteps;
    made.w.push_back(given ? guidance.schedule[i] : static_cast<float>(weight(guidance, made.t[i], total)));
    if (!std::isfinite(made.w.back()) || made.w.back() < 0)
      fail(DD_ARGUMENT, "guidance: the scale of step ", i, " is ", made.w.back(), "; expected a number >= 0");
    check_scale(manifest, made.w.back());
  }
  return made;
}

}  // namespace

Plan plan(const Manifest &manifest, std::int64_t steps, const dd_guidance &asked) {
  const SamplingPlan &sampling = manifest.sampling;
  const std::int64_t total = manifest.num_train_timesteps;
  const auto usual = static_cast<std::int64_t>(sampling.timesteps.size()), n = steps == 0 ? usual : steps;
  if (!manifest.grids.empty()) {
    std::string known;
    for (const auto &grid : manifest.grids) {
      if (static_cast<std::int64_t>(grid.size()) == n) return guided(manifest, grid, asked, n == usual);
      known += (known.empty() ? "" : ", ") + std::to_string(grid.size());
    }
    fail(DD_ARGUMENT, "steps is ", n, "; this student was trained for ", known);
  }
  if (n < 1 || n > total) fail(DD_ARGUMENT, "steps is ", n, "; expected 1 ... ", total, ", or 0 for the artifact's");
  return guided(manifest, n == usual ? sampling.timesteps : timesteps(n, total, sampling.timestep_spacing), asked,
                n == usual);
}

void ddim_update(float *x, const float *output, std::int64_t size, float alpha, float alpha_prev, bool clip,
                 Prediction prediction) {
  const float signal = std::sqrt(alpha), noise = std::sqrt(1.0F - alpha);
  const float next_signal = std::sqrt(alpha_prev), next_noise = std::sqrt(1.0F - alpha_prev);
  for (std::int64_t i = 0; i < size; ++i) {
    float x_0 = output[i], direction = output[i];
    if (prediction == Prediction::epsilon) {
      x_0 = (x[i] - noise * output[i]) / signal;
    } else if (prediction == Prediction::v) {
      x_0 = signal * x[i] - noise * output[i];
      direction = noise * x[i] + signal * output[i];
    } else {
      direction = (x[i] - signal * x_0) / noise;
    }
    if (clip) {
      x_0 = std::clamp(x_0, -1.0F, 1.0F);
      direction = (x[i] - signal * x_0) / noise;
    }
    x[i] = next_signal * x_0 + next_noise * direction;
  }
}

void predicted_clean(float *x_0, const float *x, const float *x_prev, std::int64_t size, float alpha, float alpha_prev,
                     bool clip) {
  const double signal = std::sqrt(double{alpha}), sigma = std::sqrt(1.0 - double{alpha});
  const double next_signal = std::sqrt(double{alpha_prev}), next_sigma = std::sqrt(1.0 - double{alpha_prev});
  const double determinant = sigma * next_signal - next_sigma * signal;
  for (std::int64_t i = 0; i < size; ++i) {
    const auto value = static_cast<float>((sigma * x_prev[i] - next_sigma * x[i]) / determinant);
    x_0[i] = clip ? std::clamp(value, -1.0F, 1.0F) : value;
  }
}

void renoise(float *x, const float *noise, std::int64_t size, float alpha) {
  const float signal = std::sqrt(alpha), sigma = std::sqrt(1.0F - alpha);
  for (std::int64_t i = 0; i < size; ++i) x[i] = signal * x[i] + sigma * noise[i];
}

bool all_finite(const float *values, std::int64_t size) {
  constexpr std::uint32_t kExponent = 0x7F800000;
  bool finite = true;
  for (std::int64_t i = 0; i < size; ++i) {  // without a branch, so that it is vectorised
    std::uint32_t bits = 0;
    std::memcpy(&bits, values + i, sizeof bits);
    finite &= (bits & kExponent) != kExponent;
  }
  return finite;
}

}  // namespace dashdeploy::detail
