// The loop over batches and threads: DDIM, or the consistency sampler (arXiv:2303.01469, Algorithm 1).
#include "sampler.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <thread>
#include <utility>

#include "error.h"
#include "host_loop.h"
#include "philox.h"
#if defined(__linux__)
#include <sched.h>
#endif

namespace dashdeploy::detail {
namespace {

constexpr std::int64_t kUsualMaxBatch = 64;

int available_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
}

// The fewest and the most images that the engines accept in one call; the most 0: any number.
std::pair<std::int64_t, std::int64_t> batch_limits(const Manifest &manifest) {
  std::int64_t smallest = 1, largest = 0;
  for (const std::string &name : used_graphs(manifest)) {
    if (name == "decoder") continue;  // it is called in parts of its own
    const auto graph = manifest.graphs.find(name);
    if (graph == manifest.graphs.end() || !graph->second.engine) continue;
    std::int64_t fewest = kUsualMaxBatch << 20, most = 0;
    for (const Profile &profile : graph->second.engine->profiles) {
      fewest = std::min(fewest, profile.min);
      most = std::max(most, profile.max);
    }
    smallest = std::max(smallest, fewest);
    largest = largest == 0 ? most : std::min(largest, most);
  }
  return {smallest, largest};
}

Options checked(const dd_open_options &asked, const Manifest &manifest) {
  if (asked.threads < 0 || asked.threads > 1024)
    fail(DD_ARGUMENT, "threads is ", asked.threads, "; expected 0 ... 1024");
  if (asked.device < 0) fail(DD_ARGUMENT, "device is ", asked.device, "; expected 0 or more");
  if (asked.max_batch < 0 || asked.max_batch > 65536)
    fail(DD_ARGUMENT, "max_batch is ", asked.max_batch, "; expected 0 ... 65536");
  Options options;
  options.threads = asked.threads == 0 ? available_threads() : asked.threads;
  options.device = asked.device;
  const auto [smallest, largest] = batch_limits(manifest);
  options.min_batch = smallest;
  options.max_batch = asked.max_batch > 0 ? asked.max_batch : largest > 0 ? largest : kUsualMaxBatch;
  if (largest > 0) options.max_batch = std::min(options.max_batch, largest);
  if (options.max_batch < smallest)
    fail(DD_ARGUMENT, "max_batch is ", options.max_batch, "; the engines take ", smallest, " images or more at once");
  return options;
}

std::unique_ptr<Backend> open_backend(const Artifact &artifact, const Options &options) {
  const std::string &name = artifact.manifest().backend;
#if defined(DASHDEPLOY_OPENVINO)
  if (name == "openvino") return open_openvino(artifact, options);
#endif
#if defined(DASHDEPLOY_ONNXRUNTIME)
  if (name == "onnxruntime") return open_onnxruntime(artifact, options);
#endif
#if defined(DASHDEPLOY_TENSORRT)
  if (name == DASHDEPLOY_TENSORRT) return open_tensorrt(artifact, options);
#endif
  fail(DD_UNSUPPORTED, "the artifact is for the backend '", name,
       "', and this library was built with: ", dd_backends());
}

double milliseconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

// A loop for one caller. It goes back to the free ones, unless an error may have left it unusable.
class Sampler::Lease {
 public:
  Lease(const Sampler &owner, bool narrow) : owner_(owner), narrow_(narrow) {
    {
      const std::lock_guard<std::mutex> lock(owner.mutex_);
      auto &free = owner.free_[narrow ? 1 : 0];
      if (!free.empty()) {
        loop_ = std::move(free.back());
        free.pop_back();
      }
    }
    if (!loop_) loop_ = owner.backend_->loop(narrow);
  }

  Lease(const Lease &) = delete;
  Lease &operator=(const Lease &) = delete;

  ~Lease() {
    if (std::uncaught_exceptions() > exceptions_) return;
    const std::lock_guard<std::mutex> lock(owner_.mutex_);
    try {
      owner_.free_[narrow_ ? 1 : 0].push_back(std::move(loop_));
    } catch (...) {  // no memory for the list: the loop is closed instead
    }
  }

  Loop &operator*() const { return *loop_; }

 private:
  const Sampler &owner_;
  const bool narrow_;
  const int exceptions_ = std::uncaught_exceptions();
  std::unique_ptr<Loop> loop_;
};

// One call of sample(), shared by its parts.
struct Sampler::Run {
  Run(const dd_request &request, Plan plan, float *images, bool narrow, int parts)
      : request(request), plan(std::move(plan)), images(images), narrow(narrow), parts(parts) {}

  const dd_request &request;
  const Plan plan;
  float *const images;
  const bool narrow;
  const int parts;
  bool decodes = false;    // images are decoded, and x is not what is written
  bool whole = false;      // by the sampler graph: all steps in one call
  std::int64_t total = 0;  // steps of all chunks
  std::atomic<std::int64_t> done{0};
  std::atomic<bool> stop{false}, cancelled{false};
  std::mutex mutex;
  std::exception_ptr error;
  dd_timing timing{};

  std::int64_t begin(int part) const { return request.count * part / parts; }
};

Sampler::Sampler(const std::filesystem::path &folder, const dd_open_options &options)
    : artifact_(folder, options.public_key),
      options_(checked(options, artifact_.manifest())),
      alphas_(alphas_cumprod(artifact_.manifest().betas)),
      backend_(open_backend(artifact_, options_)),
      pool_(std::make_unique<Pool>(backend_->lanes() - 1)) {
  const Lease warm(*this, narrow(1));  // an error in the graphs shows now, not at the first request
}

bool Sampler::narrow(std::int64_t count) const {
  return backend_->lanes() > 1 && (count >= backend_->lanes() || manifest().host.small);
}

bool Sampler::fits_sampler(const dd_request &request, const Plan &plan) const {
  if (!backend_->has_sampler() || request.progress != nullptr || plan.t != manifest().sampler->timesteps) return false;
  // A step without guidance costs half by the cond graph; where that saves little, the sampler graph is still faster.
  const auto off = static_cast<double>(std::count(plan.w.begin(), plan.w.end(), 1.0F));
  const double saved = backend_->has_cond() ? off / static_cast<double>(plan.steps()) / 2 : 0.0;
  const Host &host = manifest().host;
  const bool few = host.small && request.count < backend_->lanes();
  return saved < (few ? host.cond_gain_few : host.cond_gain);
}

void Sampler::check_labels(const std::int64_t *labels, std::int64_t count) const {
  if (labels == nullptr) fail(DD_ARGUMENT, "labels is NULL");
  const std::int64_t classes = manifest().num_classes;
  for (std::int64_t i = 0; i < count; ++i)
    if (labels[i] < 0 || labels[i] >= classes)
      fail(DD_ARGUMENT, "labels[", i, "] is ", labels[i], "; the artifact has the classes 0 ... ", classes - 1);
}

Plan Sampler::checked_plan(const dd_request &request, bool decodes) const {
  const std::int64_t size = manifest().image_size(),
                     most = (std::int64_t{1} << 40) / std::max(size, decodes ? manifest().decoder->image_size() : 1);
  if (request.count < 1 || request.count > most)
    fail(DD_ARGUMENT, "count is ", request.count, "; expected 1 ... ", most);
  check_labels(request.labels, request.count);
  Plan made = plan(manifest(), request.steps, request.guidance);
  const std::int64_t values = request.count * size * manifest().noises(static_cast<std::int64_t>(made.steps()));
  for (std::int64_t i = 0; request.noise != nullptr && i < values; ++i)
    if (!std::isfinite(request.noise[i])) fail(DD_ARGUMENT, "noise[", i, "] is not a finite number");
  return made;
}

void Sampler::sample(const dd_request &request, float *images) {
  const bool decodes = backend_->has_decoder() && request.latents == 0;
  if (images == nullptr) fail(DD_ARGUMENT, "images is NULL");
  if (request.preview != nullptr || request.preview_every != 0 || request.deadline_ms != 0)
    fail(DD_ARGUMENT, "preview, preview_every and deadline_ms are of dd_submit; leave them 0");
  Plan planned = checked_plan(request, decodes);
  const bool narrowly = narrow(request.count);
  const int parts = narrowly && request.count >= backend_->lanes() ? backend_->lanes() : 1;
  Run run(request, std::move(planned), images, narrowly, parts);
  run.decodes = decodes;
  run.whole = fits_sampler(request, run.plan);
  for (int part = 0; part < parts; ++part) {
    const std::int64_t count = run.begin(part + 1) - run.begin(part);
    run.total += (count + max_batch() - 1) / max_batch() * static_cast<std::int64_t>(run.plan.steps());
  }
  pool_->run(parts, [&](int part) { draw(run, part); });
  if (run.error) std::rethrow_exception(run.error);
  if (!run.cancelled && request.progress != nullptr && parts > 1 &&
      request.progress(request.user, run.total, run.total) != 0)
    run.cancelled = true;
  if (request.timing != nullptr) *request.timing = run.timing;
  if (run.cancelled) fail(DD_CANCELLED, "cancelled by the progress callback");
}

void Sampler::draw(Run &run, int part) const {
  try {
    const Lease loop(*this, run.narrow);
    const std::int64_t end = run.begin(part + 1);
    for (std::int64_t first = run.begin(part); first < end && !run.stop; first += max_batch())
      draw_chunk(run, *loop, first, std::min(max_batch(), end - first), part == 0);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(run.mutex);
    if (!run.error) run.error = std::current_exception();
    run.stop = true;
  }
}

void Sampler::draw_chunk(Run &run, Loop &loop, std::int64_t first, std::int64_t batch, bool reports) const {
  const dd_request &request = run.request;
  const std::int64_t size = manifest().image_size();
  std::vector<float> latents(static_cast<std::size_t>(run.decodes ? batch * size : 0));
  float *const images = run.decodes ? latents.data() : run.images + first * size;
  // Of an image that takes one noise, it is drawn where the image will be.
  const std::int64_t noises = manifest().noises(static_cast<std::int64_t>(run.plan.steps())), stride = noises * size;
  std::vector<float> drawn(static_cast<std::size_t>(request.noise == nullptr && noises > 1 ? batch * stride : 0));
  float *const place = drawn.empty() ? images : drawn.data();
  for (std::int64_t i = 0; request.noise == nullptr && i < batch * noises; ++i)
    normal(request.seed, request.first_image + static_cast<std::uint64_t>(first + i / noises),
           static_cast<std::uint32_t>(i % noises), size, place + i * size);
  const float *const noise = request.noise == nullptr ? place : request.noise + first * stride;
  for (std::int64_t i = 0; noises > 1 && i < batch; ++i) std::copy_n(noise + i * stride, size, images + i * size);
  std::vector<std::int64_t> t(static_cast<std::size_t>(batch)), t_prev(t.size());
  std::vector<float> w(t.size());
  const bool by_cond = backend_->has_cond();

  const auto before = std::chrono::steady_clock::now();
  loop.take_backend_ms();
  loop.load(noises > 1 ? images : noise, request.labels + first, batch);
  if (run.whole) loop.sample(noise, run.plan.w.data());
  if (run.whole && !loop.finite()) fail(DD_NOT_FINITE, "the sampler graph", kGave);
  for (std::size_t i = 0; !run.whole && i < run.plan.steps() && !run.stop; ++i) {
    std::fill(t.begin(), t.end(), run.plan.t[i]);
    std::fill(t_prev.begin(), t_prev.end(), run.plan.t_prev[i]);
    if (by_cond && run.plan.w[i] == 1.0F) {
      loop.step_cond(t.data(), t_prev.data());
    } else {
      std::fill(w.begin(), w.end(), run.plan.w[i]);
      loop.step(t.data(), t_prev.data(), w.data());
    }
    if (!loop.finite())
      fail(DD_NOT_FINITE, "step ", i + 1, " of ", run.plan.steps(), " (t = ", run.plan.t[i], ", w = ", run.plan.w[i],
           ")", kGave);
    if (noises > 1 && i + 1 < run.plan.steps()) {
      loop.store(images);
      const float alpha = alphas_[static_cast<std::size_t>(run.plan.t[i + 1] + 1)];
      for (std::int64_t k = 0; k < batch; ++k)
        renoise(images + k * size, noise + k * stride + static_cast<std::int64_t>(i + 1) * size, size, alpha);
      loop.load(images, request.labels + first, batch);
    }
    const std::int64_t done = ++run.done;
    if (reports && request.progress != nullptr && (done < run.total || run.parts == 1) &&
        request.progress(request.user, done, run.total) != 0)
      run.cancelled = run.stop = true;
  }
  loop.store(images);
  if (!run.stop && !all_finite(images, batch * size)) fail(DD_NOT_FINITE, "one of the steps", kGave);
  if (run.decodes && !run.stop)
    decode(loop, batch, images, run.images + first * manifest().decoder->image_size());
  const double loop_ms = milliseconds(std::chrono::steady_clock::now() - before), backend_ms = loop.take_backend_ms();

  const std::lock_guard<std::mutex> lock(run.mutex);
  run.timing.loop_ms += loop_ms;
  run.timing.backend_ms += backend_ms;
  run.timing.steps += static_cast<std::int64_t>(run.plan.steps());
}

void Sampler::decode(Loop &loop, std::int64_t count, const float *latents, float *images) const {
  const Decoder &decoder = *manifest().decoder;
  for (std::int64_t first = 0; first < count; first += decoder.at_once) {
    const std::int64_t part = std::min(decoder.at_once, count - first);
    float *const place = images + first * decoder.image_size();
    loop.decode(latents + first * manifest().image_size(), part, place);
    if (!all_finite(place, part * decoder.image_size())) fail(DD_NOT_FINITE, "the decoder", kGave);
  }
}

void Sampler::decode(std::int64_t count, const float *latents, float *images) {
  if (!backend_->has_decoder())
    fail(DD_ARGUMENT, "decode: the artifact has no decoder", manifest().latents ? "" : "; it draws images as they are");
  const std::int64_t most = (std::int64_t{1} << 40) / std::max(manifest().image_size(), manifest().decoder->image_size());
  if (count < 1 || count > most) fail(DD_ARGUMENT, "count is ", count, "; expected 1 ... ", most);
  if (latents == nullptr || images == nullptr) fail(DD_ARGUMENT, "decode needs latents and images");
  for (std::int64_t i = 0; i < count * manifest().image_size(); ++i)
    if (!std::isfinite(latents[i])) fail(DD_ARGUMENT, "latents[", i, "] is not a finite number");
  const Lease loop(*this, narrow(1));
  decode(*loop, count, latents, images);
}

void Sampler::step(std::int64_t count, float *x, const std::int64_t *t, const std::int64_t *t_prev,
                   const std::int64_t *labels, const float *w) {
  if (count < 1 || x == nullptr || t == nullptr || t_prev == nullptr || w == nullptr)
    fail(DD_ARGUMENT, "step needs a count of 1 or more, and x, t, t_prev and w");
  check_labels(labels, count);
  const std::int64_t total = manifest().num_train_timesteps, size = manifest().image_size();
  for (std::int64_t i = 0; i < count; ++i) {
    if (t[i] < 0 || t[i] >= total) fail(DD_ARGUMENT, "t[", i, "] is ", t[i], "; expected 0 ... ", total - 1);
    if (t_prev[i] < -1 || t_prev[i] >= t[i])
      fail(DD_ARGUMENT, "t_prev[", i, "] is ", t_prev[i], "; expected -1 ... t - 1");
    if (t_prev[i] != -1 && manifest().sampling.consistency)
      fail(DD_ARGUMENT, "t_prev[", i, "] is ", t_prev[i],
           "; expected -1: the solver consistency steps to clean images");
    if (!std::isfinite(w[i])) fail(DD_ARGUMENT, "w[", i, "] is not a finite number");
    check_scale(manifest(), w[i]);
  }
  const Lease loop(*this, narrow(count));
  for (std::int64_t first = 0; first < count; first += max_batch()) {
    (*loop).load(x + first * size, labels + first, std::min(max_batch(), count - first));
    (*loop).step(t + first, t_prev + first, w + first);
    (*loop).store(x + first * size);
    if (!(*loop).finite() || !all_finite(x + first * size, std::min(max_batch(), count - first) * size))
      fail(DD_NOT_FINITE, "the step", kGave);
  }
}

}  // namespace dashdeploy::detail
