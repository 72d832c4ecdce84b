// The interface to an inference library: loops over the artifact's graphs, with x where the library wants it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "artifact.h"

namespace dashdeploy::detail {

struct Options {
  int threads = 1;              // CPU backends
  int device = 0;               // GPU backends
  std::int64_t min_batch = 1;   // images in one call of the network: the engines take no fewer,
  std::int64_t max_batch = 64;  // and no more
};

// Takes one batch through the sampler, for one thread at a time. Buffers are made once, for Options::max_batch.
class Loop {
 public:
  virtual ~Loop() = default;

  // Take x (batch, C, H, W) and labels (batch,).
  virtual void load(const float *x, const std::int64_t *labels, std::int64_t batch) = 0;

  // x <- x at t_prev, guided; t, t_prev and w are (batch,).
  virtual void step(const std::int64_t *t, const std::int64_t *t_prev, const float *w) = 0;

  // The same without guidance, by only the conditional branch; only where Backend::has_cond.
  virtual void step_cond(const std::int64_t *t, const std::int64_t *t_prev) = 0;

  // x <- images, by all steps of the sampler graph with the scales w, one a step; only where Backend::has_sampler. It
  // starts from x, or with the solver consistency from `noise` (batch, steps, C, H, W).
  virtual void sample(const float *noise, const float *w) = 0;

  // Images in [-1, 1] of so many latents, at most Decoder::at_once; only where Backend::has_decoder. x stays.
  virtual void decode(const float *latents, std::int64_t count, float *images) = 0;

  // Whether what the last call gave is finite: eps too, because clipping makes a finite x of an infinite eps. x that
  // stays on a GPU is looked at when it comes back.
  virtual bool finite() const = 0;

  // The same of one image of the batch.
  virtual bool finite(std::int64_t row) const = 0;

  // Write x back.
  virtual void store(float *x) = 0;

  // Milliseconds spent inside the inference library since the last call of this function.
  virtual double take_backend_ms() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // A new loop; several may run at the same time. narrow: it uses one thread, and there may be `lanes` of them.
  virtual std::unique_ptr<Loop> loop(bool narrow) = 0;

  // How many narrow loops may run a large batch together: 1 where the library itself does it better.
  virtual int lanes() const = 0;

  virtual bool has_cond() const = 0;

  virtual bool has_sampler() const = 0;

  virtual bool has_decoder() const = 0;
};

// Each in its own file, built where CMake finds its library.
std::unique_ptr<Backend> open_openvino(const Artifact &artifact, const Options &options);
std::unique_ptr<Backend> open_onnxruntime(const Artifact &artifact, const Options &options);
std::unique_ptr<Backend> open_tensorrt(const Artifact &artifact, const Options &options);

}  // namespace dashdeploy::detail
