// One batch through the sampler on a GPU, by engines of TensorRT or TensorRT for RTX. x stays there from the first step
// to the last; a step is one CUDA graph, captured once for each of the first batch sizes.
#pragma once

#include <NvInfer.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend.h"
#include "cuda_resources.h"
#include "error.h"
#include "host_loop.h"
#include "profiles.h"
#include "schedule.h"

namespace dashdeploy::detail {

inline constexpr bool kIsRtx = std::string_view(DASHDEPLOY_TENSORRT) == "tensorrt_rtx";
inline constexpr const char *kTitle = kIsRtx ? "TensorRT for RTX" : "TensorRT";
inline constexpr std::size_t kSlots = 4;         // steps whose inputs may be in transfer at the same time
inline constexpr std::size_t kMostCaptured = 8;  // batch sizes with a CUDA graph, and so a context of their own

// The last error that TensorRT logged; one logger for all of a backend's objects.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char *text) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      last_ = text;
    } catch (...) {  // no memory for a message: the call still has its status
    }
  }

  std::string last() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_.empty() ? "no reason was given" : last_.substr(0, 600);
  }

 private:
  mutable std::mutex mutex_;
  std::string last_;
};

using EnginePtr = std::shared_ptr<nvinfer1::ICudaEngine>;
using ContextPtr = std::unique_ptr<nvinfer1::IExecutionContext>;

// An engine and the profiles that it was built for.
struct Opened {
  EnginePtr engine;
  std::vector<Profile> profiles;
};
using Engines = std::vector<Opened>;  // guided and cond, by Which

// A context and a graph of it. The context serves nothing else: TensorRT leaves replays undefined once it has changed.
struct Captured {
  ContextPtr context;
  StepGraph graph;
};

class TensorRtLoop final : public Loop {
 public:
  TensorRtLoop(const Manifest &manifest, const Engines &engines, const Opened &decoder, const Logger &logger,
               const Options &options)
      : manifest_(manifest),
        engines_(engines),
        opened_decoder_(decoder),
        logger_(logger),
        device_(options.device),
        alphas_(alphas_cumprod(manifest.betas)),
        steps_(used_graphs(manifest).front() == "step"),
        capacity_(options.max_batch) {
    check(cudaSetDevice(device_), "device");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    stream_.reset(stream);
    const auto rows = static_cast<std::size_t>(capacity_), image = rows * size() * sizeof(float);
    x_ = on_device(image);
    out_ = on_device(image);
    y_ = on_device(rows * sizeof(std::int64_t));
    scalars_ = on_device(rows * kScalars);
    host_x_ = pinned(image);
    host_out_ = pinned(image);
    host_y_ = pinned(rows * sizeof(std::int64_t));
    for (std::size_t i = 0; i < kSlots; ++i) {
      slots_[i] = pinned(rows * kScalars);
      cudaEvent_t event = nullptr;
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
      copied_[i].reset(event);
    }
    // That of the guided step is made with its CUDA graph.
    for (std::size_t i = steps_ ? 1 : 0; i < engines.size(); ++i) shared_[{i, 0}] = made(engines[i], 0);
    if (!decoder.engine) return;
    const Decoder &known = *manifest.decoder;
    const auto most = static_cast<std::size_t>(known.at_once);
    const std::size_t latents = most * size() * sizeof(float), images = most * decoded_bytes();
    latents_ = on_device(latents);
    images_ = on_device(images);
    host_latents_ = pinned(latents);
    host_images_ = pinned(images);
    shared_[{static_cast<std::size_t>(Which::decoder), 0}] = made(decoder, 0);
  }

  ~TensorRtLoop() override {
    cudaSetDevice(device_);
    cudaStreamSynchronize(stream_.get());
  }

  void load(const float *x, const std::int64_t *labels, std::int64_t batch) override {
    check(cudaSetDevice(device_), "device");
    batch_ = batch;
    finite_.assign(rows(), true);
    std::copy_n(x, batch * static_cast<std::int64_t>(size()), static_cast<float *>(host_x_.get()));
    std::copy_n(labels, batch, static_cast<std::int64_t *>(host_y_.get()));
    copy(x_.get(), host_x_.get(), image_bytes(), cudaMemcpyHostToDevice);
    copy(y_.get(), host_y_.get(), rows() * sizeof(std::int64_t), cudaMemcpyHostToDevice);
    if (steps_ && captures_ && captured_.count(batch) == 0 && captured_.size() < kMostCaptured) capture();
    for (std::size_t i = 0; i < engines_.size(); ++i)
      contexts_[i] = i == 0 && captured_.count(batch) != 0 ? nullptr : &shaped(i, engines_[i], batch);
  }

  void step(const std::int64_t *t, const std::int64_t *t_prev, const float *w) override {
    const auto before = std::chrono::steady_clock::now();
    upload(t, t_prev, w);
    if (const auto found = captured_.find(batch_); found != captured_.end()) {
      check(cudaGraphLaunch(found->second.graph.get(), stream_.get()), "step graph");
    } else {
      enqueue(*contexts_[0]);
      if (steps_)
        copy(x_.get(), out_.get(), image_bytes(), cudaMemcpyDeviceToDevice);
      else
        update(t, t_prev);
    }
    in_backend_ += std::chrono::steady_clock::now() - before;
  }

  void step_cond(const std::int64_t *t, const std::int64_t *t_prev) override {
    const auto before = std::chrono::steady_clock::now();
    upload(t, t_prev, nullptr);
    enqueue(*contexts_[1]);
    update(t, t_prev);
    in_backend_ += std::chrono::steady_clock::now() - before;
  }

  void sample(const float *, const float *) override { fail(DD_INTERNAL, "the whole sampler is not run by ", kTitle); }

  void decode(const float *latents, std::int64_t count, float *images) override {
    const auto before = std::chrono::steady_clock::now();
    check(cudaSetDevice(device_), "device");
    const auto rows = static_cast<std::size_t>(count);
    const std::size_t values = rows * static_cast<std::size_t>(manifest_.decoder->image_size());
    std::memcpy(host_latents_.get(), latents, rows * size() * sizeof(float));
    copy(latents_.get(), host_latents_.get(), rows * size() * sizeof(float), cudaMemcpyHostToDevice);
    enqueue(shaped(static_cast<std::size_t>(Which::decoder), opened_decoder_, count));
    copy(host_images_.get(), images_.get(), rows * decoded_bytes(), cudaMemcpyDeviceToHost);
    check(cudaStreamSynchronize(stream_.get()), "decoder");
    in_backend_ += std::chrono::steady_clock::now() - before;
    if (!manifest_.decoder->bytes) {
      std::copy_n(static_cast<const float *>(host_images_.get()), values, images);
      return;
    }
    const auto *bytes = static_cast<const std::uint8_t *>(host_images_.get());
    for (std::size_t i = 0; i < values; ++i) images[i] = static_cast<float>(bytes[i]) / 127.5F - 1.0F;
  }

  bool finite() const override { return std::find(finite_.begin(), finite_.end(), false) == finite_.end(); }

  bool finite(std::int64_t row) const override { return finite_[static_cast<std::size_t>(row)]; }

  void store(float *x) override {
    const auto before = std::chrono::steady_clock::now();
    copy(host_x_.get(), x_.get(), image_bytes(), cudaMemcpyDeviceToHost);
    check(cudaStreamSynchronize(stream_.get()), "inference");
    in_backend_ += std::chrono::steady_clock::now() - before;
    std::copy_n(static_cast<const float *>(host_x_.get()), batch_ * static_cast<std::int64_t>(size()), x);
  }

  double take_backend_ms() override {
    const std::chrono::duration<double, std::milli> taken = in_backend_;
    in_backend_ = {};
    return taken.count();
  }

 private:
  // t, t_prev and w of a step lie in a row, each with room for the largest batch, and travel as one copy.
  static constexpr std::size_t kScalars = 2 * sizeof(std::int64_t) + sizeof(float);

  std::size_t size() const { return static_cast<std::size_t>(manifest_.image_size()); }
  std::size_t decoded_bytes() const {  // of one image
    const Decoder &decoder = *manifest_.decoder;
    return static_cast<std::size_t>(decoder.image_size()) * (decoder.bytes ? sizeof(std::uint8_t) : sizeof(float));
  }
  std::size_t rows() const { return static_cast<std::size_t>(batch_); }
  std::size_t image_bytes() const { return rows() * size() * sizeof(float); }
  std::size_t t_prev_at() const { return static_cast<std::size_t>(capacity_) * sizeof(std::int64_t); }
  std::size_t w_at() const { return 2 * t_prev_at(); }

  static char *within(void *memory, std::size_t offset) { return static_cast<char *>(memory) + offset; }

  void copy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind) {
    check(cudaMemcpyAsync(to, from, bytes, kind, stream_.get()), "copy");
  }

  void address(const nvinfer1::ICudaEngine &engine, nvinfer1::IExecutionContext &context) {
    const std::map<std::string, void *> places = {{"x", x_.get()},
                                                  {"y", y_.get()},
                                                  {"t", scalars_.get()},
                                                  {"t_prev", within(scalars_.get(), t_prev_at())},
                                                  {"w", within(scalars_.get(), w_at())},
                                                  {"eps", out_.get()},
                                                  {"v", out_.get()},
                                                  {"x_0", out_.get()},
                                                  {"x_prev", out_.get()},
                                                  {"latents", latents_.get()},
                                                  {"images", images_.get()}};
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const char *name = engine.getIOTensorName(i);
      const auto place = places.find(name);
      if (place == places.end() || !context.setTensorAddress(name, place->second))
        fail(DD_DAMAGED, "the engine's tensor ", name, " is not one of the contract's");
    }
  }

  ContextPtr made(const Opened &opened, std::int32_t profile) {
    ContextPtr context(opened.engine->createExecutionContext());
    if (!context || !context->setOptimizationProfileAsync(profile, stream_.get()))
      fail(DD_BACKEND, kTitle, ": no execution context for profile ", profile, " (", logger_.last(), ")");
    check(cudaStreamSynchronize(stream_.get()), "profile");
    address(*opened.engine, *context);
    return context;
  }

  // The context of a graph that serves all batch sizes of a profile, with the shapes of this one.
  nvinfer1::IExecutionContext &shaped(std::size_t graph, const Opened &opened, std::int64_t batch) {
    const std::int32_t profile = choose_profile(opened.profiles, batch);
    ContextPtr &context = shared_[{graph, profile}];
    if (!context) context = made(opened, profile);
    shape(*context, batch);
    return *context;
  }

  void shape(nvinfer1::IExecutionContext &context, std::int64_t batch) {
    const nvinfer1::ICudaEngine &engine = context.getEngine();
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const char *name = engine.getIOTensorName(i);
      if (engine.getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) continue;
      nvinfer1::Dims sides = engine.getTensorShape(name);
      sides.d[0] = batch;
      if (!context.setInputShape(name, sides))
        fail(DD_BACKEND, kTitle, ": a batch of ", batch, " does not fit ", name, " (", logger_.last(), ")");
    }
  }

  void enqueue(nvinfer1::IExecutionContext &context) {
    // It returns false on failure; unchecked, the output would be what was there before.
    if (!context.enqueueV3(stream_.get()))
      fail(DD_BACKEND, kTitle, ", inference: ", logger_.last());
  }

  void upload(const std::int64_t *t, const std::int64_t *t_prev, const float *w) {
    void *slot = slots_[slot_].get();
    check(cudaEventSynchronize(copied_[slot_].get()), "inference");
    std::memcpy(slot, t, rows() * sizeof(std::int64_t));
    std::memcpy(within(slot, t_prev_at()), t_prev, rows() * sizeof(std::int64_t));
    if (w != nullptr) std::memcpy(within(slot, w_at()), w, rows() * sizeof(float));
    copy(scalars_.get(), slot, w_at() + rows() * sizeof(float), cudaMemcpyHostToDevice);
    check(cudaEventRecord(copied_[slot_].get(), stream_.get()), "event");
    slot_ = (slot_ + 1) % kSlots;
  }

  // The update on the host, for graphs that give a prediction: the copies are short beside the network.
  void update(const std::int64_t *t, const std::int64_t *t_prev) {
    copy(host_out_.get(), out_.get(), image_bytes(), cudaMemcpyDeviceToHost);
    copy(host_x_.get(), x_.get(), image_bytes(), cudaMemcpyDeviceToHost);
    check(cudaStreamSynchronize(stream_.get()), "inference");
    auto *x = static_cast<float *>(host_x_.get());
    const auto *output = static_cast<const float *>(host_out_.get());
    for (std::size_t i = 0; i < rows(); ++i) {
      finite_[i] = finite_[i] && all_finite(output + i * size(), manifest_.image_size());
      ddim_update(x + i * size(), output + i * size(), manifest_.image_size(),
                  alphas_[static_cast<std::size_t>(t[i] + 1)], alphas_[static_cast<std::size_t>(t_prev[i] + 1)],
                  manifest_.sampling.clip_sample, manifest_.prediction);
    }
    copy(x_.get(), host_x_.get(), image_bytes(), cudaMemcpyHostToDevice);
  }

  // One step of this batch size as a CUDA graph: the engine, and its output back to x. Engines with control flow cannot
  // be captured; those are enqueued, which is slower and gives the same images.
  void capture() {
    ContextPtr context = made(engines_[0], choose_profile(engines_[0].profiles, batch_));
    shape(*context, batch_);
    std::memset(slots_[0].get(), 0, static_cast<std::size_t>(capacity_) * kScalars);
    copy(scalars_.get(), slots_[0].get(), static_cast<std::size_t>(capacity_) * kScalars, cudaMemcpyHostToDevice);
    enqueue(*context);  // TensorRT finishes its preparations before the capture; this writes only out_
    check(cudaStreamSynchronize(stream_.get()), "inference");
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    const bool enqueued = context->enqueueV3(stream_.get());
    if (enqueued) cudaMemcpyAsync(x_.get(), out_.get(), image_bytes(), cudaMemcpyDeviceToDevice, stream_.get());
    const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &graph);
    cudaGraphExec_t instance = nullptr;
    const bool captured = enqueued && ended == cudaSuccess && cudaGraphInstantiate(&instance, graph, 0) == cudaSuccess;
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // a capture that failed is no error of the next call
    captures_ = captured;
    if (captured) captured_.emplace(batch_, Captured{std::move(context), StepGraph(instance)});
  }

  const Manifest &manifest_;
  const Engines &engines_;
  const Opened &opened_decoder_;
  const Logger &logger_;
  const int device_;
  const std::vector<float> alphas_;
  const bool steps_;
  const std::int64_t capacity_;
  std::int64_t batch_ = 0;
  bool captures_ = true;      // none has failed
  std::vector<bool> finite_;  // of each image, by what the host has seen
  std::size_t slot_ = 0;
  Stream stream_;
  Device x_, out_, y_, scalars_, latents_, images_;
  Pinned host_x_, host_out_, host_y_, host_latents_, host_images_;
  std::array<Pinned, kSlots> slots_;
  std::array<Event, kSlots> copied_;
  std::map<std::pair<std::size_t, std::int32_t>, ContextPtr> shared_;  // by graph and profile
  std::map<std::int64_t, Captured> captured_;                          // by batch size
  std::array<nvinfer1::IExecutionContext *, 2> contexts_{};            // of this batch, by Which; NULL: captured
  std::chrono::steady_clock::duration in_backend_{};
};

}  // namespace dashdeploy::detail
