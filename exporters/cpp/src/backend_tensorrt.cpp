// TensorRT and TensorRT for RTX: one source, two libraries. x stays on the GPU from the first step to the last; a step
// is one CUDA graph, captured once for each batch size.
#include <NvInfer.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "backend.h"
#include "cuda_resources.h"
#include "error.h"
#include "host_loop.h"
#include "schedule.h"

namespace dashdeploy::detail {
namespace {

constexpr bool kIsRtx = std::string_view(DASHDEPLOY_TENSORRT) == "tensorrt_rtx";
constexpr const char *kTitle = kIsRtx ? "TensorRT for RTX" : "TensorRT";
constexpr std::size_t kSlots = 4;  // steps whose inputs may be in transfer at the same time

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
using Engines = std::vector<EnginePtr>;  // guided and cond, by Which

class TensorRtLoop final : public Loop {
 public:
  TensorRtLoop(const Manifest &manifest, const Engines &engines, const EnginePtr &decoder, const Logger &logger,
               const Options &options)
      : manifest_(manifest),
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
    for (const auto &engine : engines) {
      contexts_.emplace_back(engine->createExecutionContext());
      if (!contexts_.back()) fail(DD_BACKEND, kTitle, ": no execution context (", logger_.last(), ")");
      address(*engine, *contexts_.back());
    }
    if (!decoder) return;
    const Decoder &known = *manifest.decoder;
    const auto most = static_cast<std::size_t>(known.at_once);
    const std::size_t latents = most * size() * sizeof(float), images = most * decoded_bytes();
    latents_ = on_device(latents);
    images_ = on_device(images);
    host_latents_ = pinned(latents);
    host_images_ = pinned(images);
    decoder_.reset(decoder->createExecutionContext());
    if (!decoder_) fail(DD_BACKEND, kTitle, ": no execution context (", logger_.last(), ")");
    if (!decoder_->setTensorAddress("latents", latents_.get()) || !decoder_->setTensorAddress("images", images_.get()))
      fail(DD_DAMAGED, "the decoder engine's tensors are not the contract's");
  }

  ~TensorRtLoop() override {
    cudaSetDevice(device_);
    cudaStreamSynchronize(stream_.get());
  }

  void load(const float *x, const std::int64_t *labels, std::int64_t batch) override {
    check(cudaSetDevice(device_), "device");
    batch_ = batch;
    finite_ = true;
    std::copy_n(x, batch * static_cast<std::int64_t>(size()), static_cast<float *>(host_x_.get()));
    std::copy_n(labels, batch, static_cast<std::int64_t *>(host_y_.get()));
    copy(x_.get(), host_x_.get(), image_bytes(), cudaMemcpyHostToDevice);
    copy(y_.get(), host_y_.get(), rows() * sizeof(std::int64_t), cudaMemcpyHostToDevice);
    for (std::size_t i = 0; i < contexts_.size(); ++i) shape(*contexts_[i]);
    if (steps_ && graphs_.count(batch) == 0) graphs_.emplace(batch, capture());
  }

  void step(const std::int64_t *t, const std::int64_t *t_prev, const float *w) override {
    const auto before = std::chrono::steady_clock::now();
    upload(t, t_prev, w);
    if (const auto graph = graphs_.find(batch_); graph != graphs_.end() && graph->second) {
      check(cudaGraphLaunch(graph->second.get(), stream_.get()), "step graph");
    } else {
      enqueue(Which::guided);
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
    enqueue(Which::cond);
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
    nvinfer1::Dims sides = decoder_->getEngine().getTensorShape("latents");
    sides.d[0] = count;
    if (!decoder_->setInputShape("latents", sides) || !decoder_->enqueueV3(stream_.get()))
      fail(DD_BACKEND, kTitle, ", decoder: ", logger_.last());
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

  bool finite() const override { return finite_; }

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
                                                  {"x_prev", out_.get()}};
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const char *name = engine.getIOTensorName(i);
      const auto place = places.find(name);
      if (place == places.end() || !context.setTensorAddress(name, place->second))
        fail(DD_DAMAGED, "the engine's tensor ", name, " is not one of the contract's");
    }
  }

  void shape(nvinfer1::IExecutionContext &context) {
    const nvinfer1::ICudaEngine &engine = context.getEngine();
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const char *name = engine.getIOTensorName(i);
      if (engine.getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) continue;
      nvinfer1::Dims sides = engine.getTensorShape(name);
      sides.d[0] = batch_;
      if (!context.setInputShape(name, sides))
        fail(DD_BACKEND, kTitle, ": a batch of ", batch_, " does not fit ", name, " (", logger_.last(), ")");
    }
  }

  void enqueue(Which graph) {
    // It returns false on failure; unchecked, the output would be what was there before.
    if (!contexts_[static_cast<std::size_t>(graph)]->enqueueV3(stream_.get()))
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
    finite_ = finite_ && all_finite(output, batch_ * manifest_.image_size());
    for (std::size_t i = 0; i < rows(); ++i)
      ddim_update(x + i * size(), output + i * size(), manifest_.image_size(),
                  alphas_[static_cast<std::size_t>(t[i] + 1)], alphas_[static_cast<std::size_t>(t_prev[i] + 1)],
                  manifest_.sampling.clip_sample, manifest_.prediction);
    copy(x_.get(), host_x_.get(), image_bytes(), cudaMemcpyHostToDevice);
  }

  // One step as a CUDA graph: the engine, and its output back to x. Engines with control flow cannot be captured; those
  // are enqueued, which is slower and gives the same images: the result is then empty.
  StepGraph capture() {
    std::memset(slots_[0].get(), 0, static_cast<std::size_t>(capacity_) * kScalars);
    copy(scalars_.get(), slots_[0].get(), static_cast<std::size_t>(capacity_) * kScalars, cudaMemcpyHostToDevice);
    enqueue(Which::guided);  // TensorRT finishes its preparations before the capture; this writes only out_
    check(cudaStreamSynchronize(stream_.get()), "inference");
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    const bool enqueued = contexts_[0]->enqueueV3(stream_.get());
    if (enqueued) cudaMemcpyAsync(x_.get(), out_.get(), image_bytes(), cudaMemcpyDeviceToDevice, stream_.get());
    const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &graph);
    cudaGraphExec_t made = nullptr;
    const bool captured = enqueued && ended == cudaSuccess && cudaGraphInstantiate(&made, graph, 0) == cudaSuccess;
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // a capture that failed is no error of the next call
    return StepGraph(captured ? made : nullptr);
  }

  const Manifest &manifest_;
  const Logger &logger_;
  const int device_;
  const std::vector<float> alphas_;
  const bool steps_;
  const std::int64_t capacity_;
  std::int64_t batch_ = 0;
  bool finite_ = true;  // what the host has seen
  std::size_t slot_ = 0;
  Stream stream_;
  Device x_, out_, y_, scalars_, latents_, images_;
  Pinned host_x_, host_out_, host_y_, host_latents_, host_images_;
  std::array<Pinned, kSlots> slots_;
  std::array<Event, kSlots> copied_;
  std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;
  std::unique_ptr<nvinfer1::IExecutionContext> decoder_;
  std::map<std::int64_t, StepGraph> graphs_;
  std::chrono::steady_clock::duration in_backend_{};
};

// Refuse an engine that does not fit this machine, before any of it is loaded: an engine file holds native code.
void check_fits(const Engine &engine, const std::string &file, int device) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
    fail(DD_UNSUPPORTED, file, ": ", kTitle, " runs on an NVIDIA GPU with its driver, and there is none here");
  if (device >= devices) fail(DD_ARGUMENT, "device is ", device, "; this machine has ", devices);
  const std::string major = std::to_string(NV_TENSORRT_MAJOR),
                    here = major + "." + std::to_string(NV_TENSORRT_MINOR) + "." + std::to_string(NV_TENSORRT_PATCH);
  const std::string built = engine.tensorrt;
  const bool same = built == here || built.rfind(here + ".", 0) == 0;
  const bool compatible = engine.version_compatible && built.rfind(major + ".", 0) == 0;
  if (!same && !compatible)
    fail(DD_UNSUPPORTED, file, ": built with ", kTitle, " ", built, ", and this program is built with ", here);
  int capability[2] = {0, 0};
  check(cudaDeviceGetAttribute(&capability[0], cudaDevAttrComputeCapabilityMajor, device), "device");
  check(cudaDeviceGetAttribute(&capability[1], cudaDevAttrComputeCapabilityMinor, device), "device");
  const std::string present = std::to_string(capability[0]) + "." + std::to_string(capability[1]);
  const auto &wanted = engine.compute_capabilities;
  const bool ampere = engine.hardware_compatibility == "ampere_plus" && capability[0] >= 8;
  if (std::find(wanted.begin(), wanted.end(), present) == wanted.end() && !ampere) {
    std::string listed;
    for (const std::string &name : wanted) listed += (listed.empty() ? "" : ", ") + name;
    fail(DD_UNSUPPORTED, file, ": built for compute capability ", listed, ", and this GPU has ", present);
  }
}

class TensorRt final : public Backend {
 public:
  TensorRt(const Artifact &artifact, const Options &options) : manifest_(artifact.manifest()), options_(options) {
    for (const std::string &name : used_graphs(manifest_)) {
      if (name.empty()) continue;
      const Graph &graph = manifest_.graphs.at(name);
      check_fits(*graph.engine, graph.file, options.device);
      if (!runtime_) {
        check(cudaSetDevice(options.device), "device");
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (!runtime_) fail(DD_BACKEND, kTitle, ": no runtime (", logger_.last(), ")");
        runtime_->setEngineHostCodeAllowed(graph.engine->version_compatible);
      }
      const std::string serialized = artifact.read(graph.file);
      EnginePtr engine(runtime_->deserializeCudaEngine(serialized.data(), serialized.size()));
      if (!engine) fail(DD_BACKEND, graph.file, ": ", kTitle, " cannot load it (", logger_.last(), ")");
      check_tensors(*engine, graph);
      if (name == "decoder")
        decoder_ = std::move(engine);
      else
        engines_.push_back(std::move(engine));
    }
  }

  std::unique_ptr<Loop> loop(bool) override {
    return std::make_unique<TensorRtLoop>(manifest_, engines_, decoder_, logger_, options_);
  }

  int lanes() const override { return 1; }  // one stream after another fills a GPU

  bool has_cond() const override { return engines_.size() > 1; }

  bool has_sampler() const override { return false; }

  bool has_decoder() const override { return decoder_ != nullptr; }

 private:
  // The engine's types and shapes must be the manifest's, which the buffers are made for.
  void check_tensors(const nvinfer1::ICudaEngine &engine, const Graph &graph) const {
    if (engine.getNbIOTensors() != static_cast<std::int32_t>(graph.inputs.size()) + 1)
      fail(DD_DAMAGED, graph.file, ": its inputs and outputs are not what the manifest says");
    for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
      const std::string name = engine.getIOTensorName(i);
      const bool image = name != "t" && name != "t_prev" && name != "y" && name != "w", real = image || name == "w";
      const bool decoded = name == "images";  // the sampler graph is not loaded here
      const Decoder decoder = manifest_.decoder.value_or(Decoder{});
      const std::int64_t sides[] = {decoded ? decoder.channels : manifest_.channels,
                                    decoded ? decoder.height : manifest_.height,
                                    decoded ? decoder.width : manifest_.width};
      const nvinfer1::DataType type = decoded && decoder.bytes ? nvinfer1::DataType::kUINT8
                                      : real                   ? nvinfer1::DataType::kFLOAT
                                                               : nvinfer1::DataType::kINT64;
      const nvinfer1::Dims shape = engine.getTensorShape(name.c_str());
      bool fits = shape.nbDims == (image ? 4 : 1) && engine.getTensorDataType(name.c_str()) == type;
      for (int k = 1; fits && image && k < 4; ++k) fits = shape.d[k] == sides[k - 1];
      if (!fits) fail(DD_DAMAGED, graph.file, ": its tensor ", name, " is not what the manifest says");
    }
  }

  const Manifest &manifest_;
  const Options options_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  Engines engines_;
  EnginePtr decoder_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Artifact &artifact, const Options &options) {
  return std::make_unique<TensorRt>(artifact, options);
}

}  // namespace dashdeploy::detail
