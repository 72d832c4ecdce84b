// OpenVINO on CPUs.
#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>
#include <utility>

#include "backend.h"
#include "error.h"
#include "host_loop.h"

namespace dashdeploy::detail {
namespace {

// Run a call of OpenVINO; its exceptions become Failures.
template <typename Call>
auto guarded(const std::string &doing, const Call &call) -> decltype(call()) {
  try {
    return call();
  } catch (const Failure &) {
    throw;
  } catch (const std::bad_alloc &) {
    throw;
  } catch (const std::exception &error) {
    fail(DD_BACKEND, "OpenVINO, ", doing, ": ", std::string(error.what()).substr(0, 600));
  }
}

// Of the sampler graph's noise; batch: -1 for any.
ov::PartialShape noise_shape(const Manifest &manifest, std::int64_t batch) {
  if (!manifest.sampling.consistency) return {batch, manifest.channels, manifest.height, manifest.width};
  return {batch, manifest.sampler_steps(), manifest.channels, manifest.height, manifest.width};
}

using Compiled = std::array<ov::CompiledModel, kGraphs>;  // by Which

class Calls final : public HostCalls {
 public:
  Calls(Compiled &compiled, const Manifest &manifest, Buffers &buffers) : manifest_(manifest), buffers_(buffers) {
    for (std::size_t i = 0; i < kGraphs; ++i)
      if (compiled[i]) requests_[i] = compiled[i].create_infer_request();
  }

  void bind(std::int64_t batch) override {
    guarded("tensors", [&] {
      for (std::size_t i = 0; i < static_cast<std::size_t>(Which::decoder); ++i) {
        auto &request = requests_[i];
        if (!request) continue;
        const ov::CompiledModel model = request.get_compiled_model();
        for (const auto &input : model.inputs()) request.set_tensor(input, tensor(input, batch));
        request.set_tensor(model.output(), image(buffers_.out, batch));
      }
    });
  }

  void bind_decoder(std::int64_t batch) override {
    const auto row = [batch](std::int64_t channels, std::int64_t height, std::int64_t width) -> ov::Shape {
      return {static_cast<std::size_t>(batch), static_cast<std::size_t>(channels), static_cast<std::size_t>(height),
              static_cast<std::size_t>(width)};
    };
    guarded("tensors", [&] {
      auto &request = requests_[static_cast<std::size_t>(Which::decoder)];
      const Decoder &decoder = *manifest_.decoder;
      const ov::Shape latents = row(manifest_.channels, manifest_.height, manifest_.width),
                      images = row(decoder.channels, decoder.height, decoder.width);
      request.set_input_tensor(ov::Tensor(ov::element::f32, latents, buffers_.latents.data()));
      request.set_output_tensor(decoder.bytes ? ov::Tensor(ov::element::u8, images, buffers_.bytes.data())
                                              : ov::Tensor(ov::element::f32, images, buffers_.images.data()));
    });
  }

  void run(Which graph) override {
    guarded("inference", [&] { requests_[static_cast<std::size_t>(graph)].infer(); });
  }

 private:
  ov::Tensor image(std::vector<float> &values, std::int64_t batch) const {
    const auto side = [](std::int64_t value) { return static_cast<std::size_t>(value); };
    return {ov::element::f32,
            {side(batch), side(manifest_.channels), side(manifest_.height), side(manifest_.width)},
            values.data()};
  }

  ov::Tensor tensor(const ov::Output<const ov::Node> &input, std::int64_t batch) const {
    const ov::Shape row = {static_cast<std::size_t>(batch)};
    const auto &names = input.get_names();
    if (names.count("noise") != 0 && manifest_.sampling.consistency)
      return {ov::element::f32, noise_shape(manifest_, batch).to_shape(), buffers_.noise.data()};
    if (names.count("x") != 0 || names.count("noise") != 0) return image(buffers_.x, batch);
    if (names.count("w") != 0 && input.get_partial_shape().size() == 2)
      return {ov::element::f32, {row[0], manifest_.sampler->timesteps.size()}, buffers_.schedule.data()};
    if (names.count("w") != 0) return {ov::element::f32, row, buffers_.w.data()};
    if (names.count("y") != 0) return {ov::element::i64, row, buffers_.y.data()};
    if (names.count("t_prev") != 0) return {ov::element::i64, row, buffers_.t_prev.data()};
    return {ov::element::i64, row, buffers_.t.data()};
  }

  const Manifest &manifest_;
  Buffers &buffers_;
  std::array<ov::InferRequest, kGraphs> requests_;
};

class OpenVino final : public Backend {
 public:
  OpenVino(const Artifact &artifact, const Options &options)
      : manifest_(artifact.manifest()), options_(options), names_(used_graphs(manifest_)) {
    guarded("reading the graphs", [&] {
      for (std::size_t i = 0; i < kGraphs; ++i)
        if (!names_[i].empty()) models_[i] = read(artifact, names_[i]);
    });
  }

  std::unique_ptr<Loop> loop(bool narrow) override {
    Compiled &compiled = compile(narrow);
    auto buffers = std::make_unique<Buffers>(options_.max_batch, manifest_);
    auto calls = guarded("infer requests", [&] { return std::make_unique<Calls>(compiled, manifest_, *buffers); });
    return std::make_unique<HostLoop>(manifest_, std::move(buffers), std::move(calls));
  }

  int lanes() const override { return options_.threads; }

  bool has_cond() const override { return !names_[1].empty(); }

  bool has_sampler() const override { return !names_[2].empty(); }

  bool has_decoder() const override { return !names_[3].empty(); }

 private:
  std::shared_ptr<ov::Model> read(const Artifact &artifact, const std::string &name) {
    const Graph &graph = manifest_.graphs.at(name);
    std::string weights;
    for (const std::string &file : graph.files)
      if (file != graph.file) weights = artifact.read(file);
    ov::Tensor tensor(ov::element::u8, {weights.size()});
    std::copy(weights.begin(), weights.end(), tensor.data<char>());
    const std::string xml = artifact.read(graph.file);
    if (xml.empty() || xml.front() != '<') fail(DD_DAMAGED, graph.file, ": not a graph of OpenVINO");
    auto model = core_.read_model(xml, tensor);
    check(*model, graph);
    return model;
  }

  // The graph's types and shapes must be the manifest's, which the buffers are made for.
  void check(const ov::Model &model, const Graph &graph) const {
    const bool decodes = graph.inputs.front() == "latents";
    const ov::PartialShape image = {-1, manifest_.channels, manifest_.height, manifest_.width}, row = {-1};
    const ov::PartialShape scales = {-1, manifest_.sampler_steps()}, noise = noise_shape(manifest_, -1);
    const auto inputs = model.inputs();
    bool whole = inputs.size() == graph.inputs.size() && model.outputs().size() == 1;
    for (const auto &input : inputs)
      for (const std::string &name : graph.inputs) {
        if (input.get_names().count(name) == 0) continue;
        const bool is_image = name == "x" || name == "noise" || decodes;
        const auto type = is_image || name == "w" ? ov::element::f32 : ov::element::i64;
        const ov::PartialShape &expected = name == "noise"                                  ? noise
                                           : is_image                                       ? image
                                           : name == "w" && graph.inputs.front() == "noise" ? scales
                                                                                            : row;
        if (input.get_element_type() != type || input.get_partial_shape() != expected)
          fail(DD_DAMAGED, graph.file, ": its input ", name, " is not what the manifest says");
      }
    for (const std::string &name : graph.inputs)
      whole = whole && std::any_of(inputs.begin(), inputs.end(),
                                   [&](const auto &input) { return input.get_names().count(name) != 0; });
    const auto &decoder = manifest_.decoder;
    const ov::PartialShape out =
        decodes ? ov::PartialShape{-1, decoder->channels, decoder->height, decoder->width} : image;
    if (!whole || model.output().get_element_type() != (decodes && decoder->bytes ? ov::element::u8 : ov::element::f32) ||
        !model.output().get_partial_shape().compatible(out))
      fail(DD_DAMAGED, graph.file, ": its inputs and outputs are not what the manifest says");
  }

  // Wide: all threads work on one call. Narrow: each thread is a stream, and a call runs on one stream.
  Compiled &compile(bool narrow) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto &compiled = compiled_[narrow ? 1 : 0];
    if (compiled) return *compiled;
    auto made = std::make_unique<Compiled>();
    // Otherwise OpenVINO silently computes a float32 graph in bf16 on CPUs with such instructions.
    const auto type = [](const std::string &precision) {
      return precision == "bf16" ? ov::element::bf16 : precision == "fp16" ? ov::element::f16 : ov::element::f32;
    };
    guarded("compiling the graphs", [&] {
      for (std::size_t i = 0; i < kGraphs; ++i) {
        if (!models_[i]) continue;
        const bool decodes = i == static_cast<std::size_t>(Which::decoder);
        ov::AnyMap settings = {ov::hint::inference_precision(type(decodes ? manifest_.decoder->precision : manifest_.precision)),
                               ov::inference_num_threads(options_.threads)};
        settings.insert(narrow ? ov::num_streams(options_.threads)
                               : ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
        (*made)[i] = core_.compile_model(models_[i], "CPU", settings);
      }
    });
    compiled = std::move(made);
    return *compiled;
  }

  const Manifest &manifest_;
  const Options options_;
  const std::array<std::string, kGraphs> names_;
  ov::Core core_;
  std::array<std::shared_ptr<ov::Model>, kGraphs> models_;
  std::mutex mutex_;
  std::unique_ptr<Compiled> compiled_[2];  // [0] wide, [1] narrow
};

}  // namespace

std::unique_ptr<Backend> open_openvino(const Artifact &artifact, const Options &options) {
  return std::make_unique<OpenVino>(artifact, options);
}

}  // namespace dashdeploy::detail
