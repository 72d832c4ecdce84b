// The loop of backends that compute in host memory: buffers, the DDIM update where a graph has none, and timing.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "backend.h"
#include "schedule.h"

namespace dashdeploy::detail {

// Tensors of one call, by the names that the graphs give them; `out` is the prediction or x_prev. Each has room for
// `capacity`.
struct Buffers {
  std::vector<float> x, out, w, schedule;  // schedule: the sampler graph's w, (capacity, steps)
  std::vector<float> noise;                // with the solver consistency that graph's, (capacity, steps, C, H, W)
  std::vector<float> latents, images;      // of the decoder, each with room for Decoder::at_once
  std::vector<std::uint8_t> bytes;         // its images in their place, where these are uint8
  std::vector<std::int64_t> t, t_prev, y;

  Buffers(std::int64_t capacity, const Manifest &manifest)
      : x(static_cast<std::size_t>(capacity * manifest.image_size())),
        out(x.size()),
        w(static_cast<std::size_t>(capacity)),
        schedule(w.size() * static_cast<std::size_t>(manifest.sampler_steps())),
        noise(manifest.sampling.consistency ? x.size() * static_cast<std::size_t>(manifest.sampler_steps()) : 0),
        t(w.size()),
        t_prev(w.size()),
        y(w.size()) {
    if (!manifest.decoder) return;
    const Decoder &decoder = *manifest.decoder;
    latents.resize(static_cast<std::size_t>(decoder.at_once * manifest.image_size()));
    images.resize(static_cast<std::size_t>(decoder.at_once * decoder.image_size()));
    bytes.resize(decoder.bytes ? images.size() : 0);
  }
};

// The graphs that a loop calls, in the order of used_graphs().
enum class Which : std::size_t { guided = 0, cond = 1, sampler = 2, decoder = 3 };
constexpr std::size_t kGraphs = 4;

// Opened graphs that read and write one set of buffers.
class HostCalls {
 public:
  virtual ~HostCalls() = default;

  // Make the tensors of every graph but the decoder be the first `batch` rows of the buffers.
  virtual void bind(std::int64_t batch) = 0;

  // The same of the decoder.
  virtual void bind_decoder(std::int64_t batch) = 0;

  // Run a graph: buffers.out <- graph(buffers), of the decoder buffers.images or bytes.
  virtual void run(Which graph) = 0;
};

class HostLoop final : public Loop {
 public:
  HostLoop(const Manifest &manifest, std::unique_ptr<Buffers> buffers, std::unique_ptr<HostCalls> calls);

  void load(const float *x, const std::int64_t *labels, std::int64_t batch) override;
  void step(const std::int64_t *t, const std::int64_t *t_prev, const float *w) override;
  void step_cond(const std::int64_t *t, const std::int64_t *t_prev) override;
  void sample(const float *noise, const float *w) override;
  void decode(const float *latents, std::int64_t count, float *images) override;
  bool finite() const override;
  bool finite(std::int64_t row) const override;
  void store(float *x) override;
  double take_backend_ms() override;

 private:
  void run(Which graph);
  void update();

  const Manifest &manifest_;
  std::vector<float> alphas_;
  const bool steps_;  // the guided graph is a step graph: it makes the update itself
  std::unique_ptr<Buffers> buffers_;
  std::unique_ptr<HostCalls> calls_;
  std::int64_t batch_ = 0, decoded_ = 0;  // rows that are bound
  std::chrono::steady_clock::duration in_backend_{};
};

// The names of the graphs that a loop calls: step (or guided where there is none), cond, sampler, decoder. Empty: there
// is none that can be used; the sampler graph must give x in float32, and only loops in host memory run it.
std::array<std::string, kGraphs> used_graphs(const Manifest &manifest);

}  // namespace dashdeploy::detail
