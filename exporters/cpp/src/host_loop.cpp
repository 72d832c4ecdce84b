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

void HostLoop::sample(const float *noise, const float *w) {
  const auto steps = manifest_.sampler_steps();
  if (manifest_.sampling.consistency)
    std::copy_n(noise, batch_ * steps * manifest_.image_size(), buffers_->noise.begin());
  for (std::int64_t i = 0; i < batch_; ++i) std::copy_n(w, steps, buffers_->schedule.begin() + i * steps);
  run(Which::sampler);
  std::copy_n(buffers_->out.begin(), batch_ * manifest_.image_size(), buffers_->x.begin());
}

void HostLoop::decode(const float *latents, std::int64_t count, float *images) {
  if (count != decoded_) calls_->bind_decoder(count);
  decoded_ = count;
  std::copy_n(latents, count * manifest_.image_size(), buffers_->latents.begin());
  run(Which::decoder);
  const std::int64_t values = count * manifest_.decoder->image_size();
  if (!manifest_.decoder->bytes) {
    std::copy_n(buffers_->images.begin(), values, images);
    return;
  }
  for (std::int64_t i = 0; i < values; ++i)
    images[i] = static_cast<float>(buffers_->bytes[static_cast<std::size_t>(i)]) / 127.5F - 1.0F;
}

bool HostLoop::finite() const {
  const std::int64_t size = batch_ * manifest_.image_size();
  return all_finite(buffers_->out.data(), size) && all_finite(buffers_->x.data(), size);
}

bool HostLoop::finite(std::int64_t row) const {
  const std::int64_t size = manifest_.image_size(), at = row * size;
  return all_finite(buffers_->out.data() + at, size) && all_finite(buffers_->x.data() + at, size);
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
                alphas_[static_cast<std::size_t>(buffers_->t_prev[at] + 1)], manifest_.sampling.clip_sample,
                manifest_.prediction);
  }
}

std::array<std::string, kGraphs> used_graphs(const Manifest &manifest) {
  const bool by_host = manifest.backend == "openvino" || manifest.backend == "onnxruntime";
  const bool sampler =
      by_host && manifest.has("sampler") && manifest.sampler->output == "float32" && !manifest.sampler->decode;
  return {manifest.has("step") ? "step" : "guided", manifest.has("cond") ? "cond" : "", sampler ? "sampler" : "",
          manifest.has("decoder") ? "decoder" : ""};
}

}  // namespace dashdeploy::detail
