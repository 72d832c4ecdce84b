// TensorRT and TensorRT for RTX: one source, two libraries. Opens the engines.
#include <algorithm>
#include <memory>
#include <string>

#include "tensorrt_loop.h"

namespace dashdeploy::detail {
namespace {

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
      Opened opened{std::move(engine), graph.engine->profiles};
      if (name == "decoder")
        decoder_ = std::move(opened);
      else
        engines_.push_back(std::move(opened));
    }
  }

  std::unique_ptr<Loop> loop(bool) override {
    return std::make_unique<TensorRtLoop>(manifest_, engines_, decoder_, logger_, options_);
  }

  int lanes() const override { return 1; }  // one stream after another fills a GPU

  bool has_cond() const override { return engines_.size() > 1; }

  bool has_sampler() const override { return false; }

  bool has_decoder() const override { return decoder_.engine != nullptr; }

 private:
  // The engine's types and shapes must be the manifest's, which the buffers are made for.
  void check_tensors(const nvinfer1::ICudaEngine &engine, const Graph &graph) const {
    if (engine.getNbIOTensors() != static_cast<std::int32_t>(graph.inputs.size()) + 1)
      fail(DD_DAMAGED, graph.file, ": its inputs and outputs are not what the manifest says");
    if (engine.getNbOptimizationProfiles() != static_cast<std::int32_t>(graph.engine->profiles.size()))
      fail(DD_DAMAGED, graph.file, ": its profiles are not what the manifest says");
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
  Opened decoder_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Artifact &artifact, const Options &options) {
  return std::make_unique<TensorRt>(artifact, options);
}

}  // namespace dashdeploy::detail
