// An opened artifact: draws images, several at once, from several threads at once.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

#include "backend.h"
#include "pool.h"
#include "schedule.h"

namespace dashdeploy::detail {

// After the step, or whatever else it was, that gave it.
constexpr const char *kGave =
    " gave a value that is not finite: noise must be standard normal, guidance not too large, and the weights finite";

class Batcher;

class Sampler {
  friend class Batcher;

 public:
  // Throws Failure.
  Sampler(const std::filesystem::path &folder, const dd_open_options &options);

  const Manifest &manifest() const { return artifact_.manifest(); }
  std::int64_t min_batch() const { return options_.min_batch; }
  std::int64_t max_batch() const { return options_.max_batch; }

  void sample(const dd_request &request, float *images);
  void step(std::int64_t count, float *x, const std::int64_t *t, const std::int64_t *t_prev, const std::int64_t *labels,
            const float *w);
  void decode(std::int64_t count, const float *latents, float *images);

 private:
  class Lease;
  struct Run;

  // A request's plan, after every check of the request but that of its images.
  Plan checked_plan(const dd_request &request, bool decodes) const;

  void draw(Run &run, int part) const;
  void draw_chunk(Run &run, Loop &loop, std::int64_t first, std::int64_t batch, bool reports) const;
  void decode(Loop &loop, std::int64_t count, const float *latents, float *images) const;
  void check_labels(const std::int64_t *labels, std::int64_t count) const;
  bool narrow(std::int64_t count) const;
  bool fits_sampler(const dd_request &request, const Plan &plan) const;

  const Artifact artifact_;
  const Options options_;
  const std::vector<float> alphas_;  // see alphas_cumprod
  const std::unique_ptr<Backend> backend_;
  const std::unique_ptr<Pool> pool_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Loop>> free_[2];  // [0] wide, [1] narrow
};

}  // namespace dashdeploy::detail
