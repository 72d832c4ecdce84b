// One batch through the sampler in host memory.
#include "host_loop.h"

#include <algorithm>

namespace dashdeploy::detail {

HostLoop::HostLoop(const Manifest &manifest, std::unique_ptr<Buffers> buffers, std::unique_ptr<HostCalls> calls)
    : manifest_(manifest),
      alphas_(alphas_cumprod(manifest.betas)),
      steps_(used_graphs(manifest).front() == "step"),
      buffers_(std::move(buffers)),
      calls_(std::move(calls)) {}

void HostLoop::load(const float *x, const std::int64_t *labels, std::int64_t batch) {
  if (batch != batch_) calls_->bind(batch);
  batch_ = batch;
  std::copy_n(x, batch * manifest_.image_size(), buffers_->x.begin());
  std::copy_n(labels, batch, buffers_->y.begin());
}

void HostLoop::step(const std::int64_t *t, const std::int64_t *t_prev, const float *w) {
  std::copy_n(t, batch_, buffers_->t.begin());
  std::copy_n(t_prev, batch_, buffers_->t_prev.begin());
  std::copy_n(w, batch_, buffers_->w.begin());
  run(Which::guided);
  if (!steps_) return update();
  std::copy_n(buffers_->out.begin(), batch_ * manifest_.image_size(), buffers_->x.begin());
}

void HostLoop::step_cond(const std::int64_t *t, const std::int64_t *t_prev) {
  std::copy_n(t, batch_, buffers_->t.begin());
  std::copy_n(t_prev, batch_, buffers_->t_prev.begin());
  run(Which::cond);
  update();
}

void HostLoop::sample(const float *w) {
  const auto steps = manifest_.sampler_steps();
  for (std::int64_t i = 0; i < batch_; ++i) std::copy_n(w, steps, buffers_->schedule.begin() + i * steps);
  run(Which::sampler);
  std::copy_n(buffers_->out.begin(), batch_ * manifest_.image_size(), buffers_->x.begin());
}

bool HostLoop::finite() const {
  const std::int64_t size = batch_ * manifest_.image_size();
  return all_finite(buffers_->out.data(), size) && all_finite(buffers_->x.data(), size);
}

void HostLoop::store(float *x) { std::copy_n(buffers_->x.begin(), batch_ * manifest_.image_size(), x); }

double HostLoop::take_backend_ms() {
  const std::chrono::duration<double, std::milli> taken = in_backend_;
  in_backend_ = {};
  return taken.count();
}

void HostLoop::run(Which graph) {
  const auto before = std::chrono::steady_clock::now();
  calls_->run(graph);
  in_backend_ += std::chrono::steady_clock::now() - before;
}

void HostLoop::update() {
  const std::int64_t size = manifest_.image_size();
  for (std::int64_t i = 0; i < batch_; ++i) {
    const auto at = static_cast<std::size_t>(i);
    ddim_update(buffers_->x.data() + i * size, buffers_->out.data() + i * size, size,
                alphas_[static_cast<std::size_t>(buffers_->t[at] + 1)],
                alphas_[static_cast<std::size_t>(buffers_->t_prev[at] + 1)], manifest_.sampling.clip_sample);
  }
}

std::array<std::string, kGraphs> used_graphs(const Manifest &manifest) {
  const bool by_host = manifest.backend == "openvino" || manifest.backend == "onnxruntime";
  const bool sampler = by_host && manifest.has("sampler") && manifest.sampler->output == "float32";
  return {manifest.has("step") ? "step" : "guided", manifest.has("cond") ? "cond" : "", sampler ? "sampler" : ""};
}

}  // namespace dashdeploy::detail
