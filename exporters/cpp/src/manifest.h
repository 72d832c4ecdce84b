// What a manifest says of an artifact, checked: every value that the runtime relies on has its type and range.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dashdeploy/dashdeploy.h"

namespace dashdeploy::detail {

constexpr std::int64_t kFormat = 2;  // of manifests; dashdeploy/run.py writes it

// The engine of a TensorRT graph: what it was built with, and what it runs on.
struct Engine {
  std::string tensorrt;                           // version of the library that built it
  std::vector<std::string> compute_capabilities;  // of the GPUs that it was built for, as in 8.6
  std::string hardware_compatibility = "none";    // none, ampere_plus, same_compute_capability
  bool version_compatible = false;
  std::string plan_sha256;
};

struct Graph {
  std::string file;                // that the backend loads
  std::vector<std::string> files;  // with its weights
  std::vector<std::string> inputs;
  std::optional<Engine> engine;
};

// dd_guidance without the schedule, as a recipe says it.
struct Guidance {
  dd_guidance_kind kind = DD_GUIDANCE_CONSTANT;
  double w = 1.0, w_min = 0.0, beta = 0.0, low = 0.0, high = 0.0;
};

struct Manifest {
  std::string name, backend, precision;
  std::map<std::string, std::string> files;     // name -> SHA-256
  std::map<std::string, Graph> graphs;          // guided, cond, step, sampler
  std::vector<std::int64_t> sampler_timesteps;  // of the sampler graph; empty: there is none that can be used
  std::vector<std::string> classes, providers;  // providers: ONNX Runtime's
  std::vector<double> betas;
  std::int64_t channels = 0, height = 0, width = 0;
  std::int64_t num_classes = 0, num_train_timesteps = 0, parameters = 0, macs = 0;
  std::int64_t max_batch = 0;  // of its engines; 0: any
  std::int64_t num_inference_steps = 0;
  std::string timestep_spacing;
  bool clip_sample = true;
  Guidance guidance;

  std::int64_t image_size() const { return channels * height * width; }
};

// Read the text of a manifest.json; `source` is what messages call it.
//
// Throws Failure: DD_DAMAGED for what is not a manifest or makes no sense, DD_UNSUPPORTED for another format.
Manifest parse_manifest(std::string_view text, const std::string &source);

}  // namespace dashdeploy::detail
