// The sampler's arithmetic: noise schedule, timesteps, guidance over time, and one DDIM update.
//
// The operations and their order are those of schedule.py, sampling.py and guidance.py in dashdeploy/diffusion/.
#pragma once

#include <cstdint>
#include <vector>

#include "manifest.h"

namespace dashdeploy::detail {

// One sampler run: for each step its t, the t it goes to (-1: clean) and its guidance scale. Each step of the solver
// consistency goes to the clean image, and noise takes that to the next t.
struct Plan {
  std::vector<std::int64_t> t, t_prev;
  std::vector<float> w;

  std::size_t steps() const { return t.size(); }
};

// Cumulative products of 1 - beta, in float64, rounded to float32; index 0 holds 1 (clean), index t + 1 that of t.
std::vector<float> alphas_cumprod(const std::vector<double> &betas);

// Descending timesteps; trailing, leading and linspace as in arXiv:2305.08891, Table 2.
std::vector<std::int64_t> timesteps(std::int64_t steps, std::int64_t total, const std::string &spacing);

// The plan of a request: `steps` of 0 and DD_GUIDANCE_DEFAULT mean the manifest's.
//
// Throws Failure(DD_ARGUMENT): too many steps, or a guidance that makes no sense.
Plan plan(const Manifest &manifest, std::int64_t steps, const dd_guidance &guidance);

// x_t -> x at the previous t, in place, with eta = 0 (arXiv:2010.02502, Eq. 12), from what the network predicted; with
// clip, x_0 is clipped to [-1, 1] and eps follows it. Only of a predicted eps is anything divided by sqrt(alpha).
void ddim_update(float *x, const float *output, std::int64_t size, float alpha, float alpha_prev, bool clip,
                 Prediction prediction);

// x_0 of a DDIM step, from where it began and where it went: both are mixtures of the same x_0 and the same direction.
void predicted_clean(float *x_0, const float *x, const float *x_prev, std::int64_t size, float alpha, float alpha_prev,
                     bool clip);

// x <- sqrt(alpha) x + sqrt(1 - alpha) noise: a clean image with noise again, where the solver consistency goes on.
void renoise(float *x, const float *noise, std::int64_t size, float alpha);

// Refuse a guidance scale that one branch was not trained for.
//
// Throws Failure(DD_ARGUMENT): it names the range.
void check_scale(const Manifest &manifest, float w);

// Whether there is no infinity and no NaN among the values.
bool all_finite(const float *values, std::int64_t size);

}  // namespace dashdeploy::detail
