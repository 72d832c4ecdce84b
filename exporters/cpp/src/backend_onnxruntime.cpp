// ONNX Runtime by its C interface, on CPUs, and on NVIDIA GPUs where the artifact's provider is CUDA.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <utility>

#include "backend.h"
#include "error.h"
#include "host_loop.h"
#include "onnx_files.h"

namespace dashdeploy::detail {
namespace {

const OrtApi &api() {
  static const OrtApi *const functions = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (functions == nullptr)
    fail(DD_UNSUPPORTED, "ONNX Runtime ", OrtGetApiBase()->GetVersionString(),
         " is older than the headers that this library was built with");
  return *functions;
}

void check(OrtStatus *status, const std::string &doing) {
  if (status == nullptr) return;
  const std::string text = std::string(api().GetErrorMessage(status)).substr(0, 600);
  api().ReleaseStatus(status);
  fail(DD_BACKEND, "ONNX Runtime, ", doing, ": ", text);
}

// A handle of ONNX Runtime and the function that releases it.
template <typename Handle>
using Owned = std::unique_ptr<Handle, void (*)(Handle *)>;

template <typename Handle>
Owned<Handle> owned(Handle *handle, void (*release)(Handle *)) {
  return Owned<Handle>(handle, release);
}

struct Opened {
  Owned<OrtSession> session{nullptr, nullptr};
  std::vector<std::string> inputs;
  std::string output;
};

using Sessions = std::array<Opened, kGraphs>;  // by Which

class Calls final : public HostCalls {
 public:
  Calls(const Sessions &sessions, const Manifest &manifest, Buffers &buffers)
      : sessions_(sessions), manifest_(manifest), buffers_(buffers), memory_(nullptr, api().ReleaseMemoryInfo) {
    OrtMemoryInfo *memory = nullptr;
    check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "memory");
    memory_.reset(memory);
  }

  void bind(std::int64_t batch) override {
    for (std::size_t i = 0; i < static_cast<std::size_t>(Which::decoder); ++i) {
      if (!sessions_[i].session) continue;
      Bound &bound = bound_[i];
      bound = Bound{};
      for (const std::string &name : sessions_[i].inputs) {
        bound.names.push_back(name.c_str());
        bound.owned.push_back(tensor(name, batch, i == static_cast<std::size_t>(Which::sampler)));
        bound.values.push_back(bound.owned.back().get());
      }
      bound.owned.push_back(image(buffers_.out, batch));
      bound.out = bound.owned.back().get();
    }
  }

  void bind_decoder(std::int64_t batch) override {
    const auto at = static_cast<std::size_t>(Which::decoder);
    const Decoder &decoder = *manifest_.decoder;
    const std::vector<std::int64_t> images = {batch, decoder.channels, decoder.height, decoder.width};
    Bound &bound = bound_[at];
    bound = Bound{};
    bound.names.push_back(sessions_[at].inputs.front().c_str());
    bound.owned.push_back(image(buffers_.latents, batch));
    bound.values.push_back(bound.owned.back().get());
    bound.owned.push_back(decoder.bytes ? view(buffers_.bytes, images, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8)
                                        : view(buffers_.images, images, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    bound.out = bound.owned.back().get();
  }

  void run(Which graph) override {
    const Opened &opened = sessions_[static_cast<std::size_t>(graph)];
    Bound &bound = bound_[static_cast<std::size_t>(graph)];
    const char *output = opened.output.c_str();
    check(api().Run(opened.session.get(), nullptr, bound.names.data(), bound.values.data(), bound.values.size(),
                    &output, 1, &bound.out),
          "inference");
  }

 private:
  struct Bound {
    std::vector<const char *> names;
    std::vector<const OrtValue *> values;
    std::vector<Owned<OrtValue>> owned;
    OrtValue *out = nullptr;
  };

  template <typename Value>
  Owned<OrtValue> view(std::vector<Value> &values, const std::vector<std::int64_t> &shape,
                       ONNXTensorElementDataType type) const {
    std::size_t count = 1;
    for (const std::int64_t side : shape) count *= static_cast<std::size_t>(side);
    OrtValue *made = nullptr;
    check(api().CreateTensorWithDataAsOrtValue(memory_.get(), values.data(), count * sizeof(Value), shape.data(),
                                               shape.size(), type, &made),
          "tensors");
    return owned(made, api().ReleaseValue);
  }

  Owned<OrtValue> image(std::vector<float> &values, std::int64_t batch) const {
    return view(values, {batch, manifest_.channels, manifest_.height, manifest_.width},
                ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  }

  Owned<OrtValue> tensor(const std::string &name, std::int64_t batch, bool whole) const {
    if (name == "noise" && manifest_.sampling.consistency)
      return view(buffers_.noise,
                  {batch, manifest_.sampler_steps(), manifest_.channels, manifest_.height, manifest_.width},
                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    if (name == "x" || name == "noise") return image(buffers_.x, batch);
    if (name == "w" && whole)
      return view(buffers_.schedule, {batch, manifest_.sampler_steps()}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    if (name == "w") return view(buffers_.w, {batch}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    return view(name == "y"        ? buffers_.y
                : name == "t_prev" ? buffers_.t_prev
                                   : buffers_.t,
                {batch}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
  }

  const Sessions &sessions_;

  const Manifest &manifest_;
  Buffers &buffers_;
  Owned<OrtMemoryInfo> memory_;
  std::array<Bound, kGraphs> bound_;
};

class OnnxRuntime final : public Backend {
 public:
  OnnxRuntime(const Artifact &artifact, const Options &options)
      : artifact_(artifact),
        manifest_(artifact.manifest()),
        options_(options),
        names_(used_graphs(manifest_)),
        env_(nullptr, api().ReleaseEnv) {
    const auto &providers = manifest_.providers;
    cuda_ = !providers.empty() && providers.front() == "CUDAExecutionProvider";
    if (!providers.empty() && !cuda_ && providers.front() != "CPUExecutionProvider")
      fail(DD_UNSUPPORTED, "the artifact is for ONNX Runtime's ", providers.front(),
           "; this library knows CPU and CUDA");
    OrtEnv *env = nullptr;
    check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "dashdeploy", &env), "start");
    env_.reset(env);
    check(api().DisableTelemetryEvents(env_.get()), "start");
  }

  std::unique_ptr<Loop> loop(bool narrow) override {
    const Sessions &sessions = open(narrow);
    auto buffers = std::make_unique<Buffers>(options_.max_batch, manifest_);
    auto calls = std::make_unique<Calls>(sessions, manifest_, *buffers);
    return std::make_unique<HostLoop>(manifest_, std::move(buffers), std::move(calls));
  }

  // A session on one thread may be called by several threads at once.
  int lanes() const override { return cuda_ ? 1 : options_.threads; }

  bool has_cond() const override { return !names_[1].empty(); }

  bool has_sampler() const override { return !names_[2].empty(); }

  bool has_decoder() const override { return !names_[3].empty(); }

 private:
  const Sessions &open(bool narrow) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto &sessions = sessions_[narrow ? 1 : 0];
    if (!sessions) {
      auto made = std::make_unique<Sessions>();
      for (std::size_t i = 0; i < kGraphs; ++i)
        if (!names_[i].empty()) (*made)[i] = open_graph(names_[i], narrow ? 1 : options_.threads);
      sessions = std::move(made);
    }
    return *sessions;
  }

  Opened open_graph(const std::string &name, int threads) {
    const Graph &graph = manifest_.graphs.at(name);
    OrtSessionOptions *made = nullptr;
    check(api().CreateSessionOptions(&made), "options");
    const auto options = owned(made, api().ReleaseSessionOptions);
    check(api().SetIntraOpNumThreads(options.get(), threads), "options");
    if (cuda_) {
      OrtCUDAProviderOptions cuda{};
      cuda.device_id = options_.device;
      check(api().SessionOptionsAppendExecutionProvider_CUDA(options.get(), &cuda), "CUDA");
    }
    // Weights beside the graph are given as bytes too: those whose hash was checked.
    std::vector<std::string> weights;
    std::vector<const char *> names;
    std::vector<char *> bytes;
    std::vector<std::size_t> sizes;
    for (const std::string &file : graph.files)
      if (file != graph.file) weights.push_back(artifact_.read(file));
    std::size_t at = 0;
    for (const std::string &file : graph.files) {
      if (file == graph.file) continue;
      names.push_back(file.c_str());
      bytes.push_back(weights[at].data());
      sizes.push_back(weights[at++].size());
    }
    if (!names.empty())
      check(api().AddExternalInitializersFromFilesInMemory(options.get(), names.data(), bytes.data(), sizes.data(),
                                                           names.size()),
            "weights");
    const std::string model = artifact_.read(graph.file);
    for (const std::string &file : external_files(model, graph.file))
      if (file == graph.file || std::find(graph.files.begin(), graph.files.end(), file) == graph.files.end())
        fail(DD_DAMAGED, graph.file, ": its weights lie in '", file.substr(0, 100), "', which is none of its files");
    OrtSession *session = nullptr;
    check(api().CreateSessionFromArray(env_.get(), model.data(), model.size(), options.get(), &session), graph.file);
    Opened opened;
    opened.session = owned(session, api().ReleaseSession);
    describe(opened, graph);
    return opened;
  }

  // The names of inputs and output. Their types and shapes must be the manifest's, which the buffers are made for.
  void describe(Opened &opened, const Graph &graph) const {
    const std::vector<std::string> &known = graph.inputs;
    const std::string &file = graph.file;
    OrtAllocator *allocator = nullptr;
    check(api().GetAllocatorWithDefaultOptions(&allocator), "memory");
    const auto text = [&](char *name) {
      const std::string copied = name;
      check(api().AllocatorFree(allocator, name), "memory");
      return copied;
    };
    std::size_t inputs = 0, outputs = 0;
    check(api().SessionGetInputCount(opened.session.get(), &inputs), file);
    check(api().SessionGetOutputCount(opened.session.get(), &outputs), file);
    for (std::size_t i = 0; i < inputs; ++i) {
      char *name = nullptr;
      check(api().SessionGetInputName(opened.session.get(), i, allocator, &name), file);
      opened.inputs.push_back(text(name));
      OrtTypeInfo *info = nullptr;
      check(api().SessionGetInputTypeInfo(opened.session.get(), i, &info), file);
      const std::string &input = opened.inputs.back();
      if (std::find(known.begin(), known.end(), input) == known.end() ||
          !fits(owned(info, api().ReleaseTypeInfo), input, known.front() == "noise"))
        fail(DD_DAMAGED, file, ": its input ", input, " is not what the manifest says");
    }
    if (inputs != known.size() || outputs != 1)
      fail(DD_DAMAGED, file, ": its inputs and outputs are not what the manifest says");
    char *name = nullptr;
    check(api().SessionGetOutputName(opened.session.get(), 0, allocator, &name), file);
    opened.output = text(name);
    OrtTypeInfo *info = nullptr;
    check(api().SessionGetOutputTypeInfo(opened.session.get(), 0, &info), file);
    if (!fits(owned(info, api().ReleaseTypeInfo), known.front() == "latents" ? "images" : "x", false))
      fail(DD_DAMAGED, file, ": its output is not what the manifest says");
  }

  bool fits(const Owned<OrtTypeInfo> &info, const std::string &name, bool whole) const {
    const OrtTensorTypeAndShapeInfo *tensor = nullptr;
    check(api().CastTypeInfoToTensorInfo(info.get(), &tensor), "types");
    if (tensor == nullptr) return false;
    ONNXTensorElementDataType type{};
    check(api().GetTensorElementType(tensor, &type), "types");
    std::size_t count = 0;
    check(api().GetDimensionsCount(tensor, &count), "types");
    std::vector<std::int64_t> sides(count);
    check(api().GetDimensions(tensor, sides.data(), count), "types");
    const bool decoded = name == "images", image = decoded || name == "x" || name == "noise" || name == "latents",
               real = image || name == "w";
    if (decoded && manifest_.decoder->bytes) {
      if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) return false;
    } else if (type != (real ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)) {
      return false;
    }
    if (!image) return count == (name == "w" && whole ? 2U : 1U);
    std::vector<std::int64_t> wanted = {-1, manifest_.channels, manifest_.height, manifest_.width};
    if (decoded)
      wanted = {-1, manifest_.decoder->channels, manifest_.decoder->height, manifest_.decoder->width};
    if (name == "noise" && manifest_.sampling.consistency) wanted.insert(wanted.begin() + 1, manifest_.sampler_steps());
    if (count != wanted.size()) return false;
    for (std::size_t i = 1; i < count; ++i)  // an output's sides may be unnamed
      if (sides[i] != wanted[i] && sides[i] != -1) return false;
    return true;
  }

  const Artifact &artifact_;
  const Manifest &manifest_;
  const Options options_;
  const std::array<std::string, kGraphs> names_;
  bool cuda_ = false;
  Owned<OrtEnv> env_;
  std::mutex mutex_;
  std::unique_ptr<Sessions> sessions_[2];  // [0] wide, [1] narrow
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const Artifact &artifact, const Options &options) {
  return std::make_unique<OnnxRuntime>(artifact, options);
}

}  // namespace dashdeploy::detail
