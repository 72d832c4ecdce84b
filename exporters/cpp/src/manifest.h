// What an artifact's manifest says, checked: every value that the runtime relies on has its type and range.
//
// Names and meanings are those of dashdeploy/artifact/__init__.py; `dashdeploy exporters schema --artifact` prints them as JSON
// Schema. Keys that are not known are passed over: the format number changes with the meaning of the others.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dashdeploy/dashdeploy.h"
#include "profiles.h"

namespace dashdeploy::detail {

constexpr std::int64_t kFormat = 5;  // of the manifests that this library reads

constexpr double kAnyScale = std::numeric_limits<double>::infinity();

// The engine of a TensorRT graph: what it was built with, and what it runs on.
struct Engine {
  std::string tensorrt;                           // version of the library that built it
  std::vector<std::string> compute_capabilities;  // of the GPUs that it was built for, as in 8.6
  std::string hardware_compatibility;             // none, ampere_plus, same_compute_capability
  bool version_compatible = false;
  std::vector<Profile> profiles;
};

struct Graph {
  std::string file;                // what the backend opens
  std::vector<std::string> files;  // all that belong to it
  std::vector<std::string> inputs;
  std::optional<Engine> engine;
};

// A recipe's guidance: dd_guidance without the schedule.
struct Guidance {
  dd_guidance_kind kind = DD_GUIDANCE_CONSTANT;
  double w = 1.0, w_min = 0.0, beta = 0.0, low = 0.0, high = 0.0;
};

// The recipe's sampling, worked out: what runs where a request says nothing else.
struct SamplingPlan {
  std::vector<std::int64_t> timesteps;  // descending; after the last comes the clean image
  std::vector<float> guidance_scales;   // w at each of them
  std::string timestep_spacing;         // of the timesteps for another number of steps
  Guidance guidance;                    // of the scales for those
  bool consistency = false;             // the solver: consistency, or ddim
  bool clip_sample = true;
};

// The graph of all steps.
struct WholeSampler {
  std::vector<std::int64_t> timesteps;
  std::string output;   // float32 or uint8
  bool decode = false;  // it ends in the decoder
};

// The graph that makes images of latents.
struct Decoder {
  std::int64_t channels = 0, height = 0, width = 0;  // of an image
  bool bytes = false;                                // its images are uint8, not float32 in [-1, 1]
  std::int64_t at_once = 1;                          // most images in one call
  std::string precision;

  std::int64_t image_size() const { return channels * height * width; }
};

// How a batch is cut over the threads of a CPU, and when the loop replaces the sampler graph.
struct Host {
  bool small = false;  // operators are too short to be shared: a batch of fewer images than threads takes one thread
  double cond_gain = 0, cond_gain_few = 0;  // share of the work that the cond graph must save; _few: of such a batch
};

// What the student's network predicts.
enum class Prediction { epsilon, v, sample };

struct Manifest {
  std::string name, backend, precision;
  Prediction prediction = Prediction::epsilon;
  std::map<std::string, std::string> files;  // name -> SHA-256
  std::map<std::string, Graph> graphs;       // guided, cond, step, sampler, decoder
  std::vector<std::string> classes;
  std::vector<std::string> providers;  // ONNX Runtime's
  std::vector<double> betas;
  std::int64_t channels = 0, height = 0, width = 0;
  std::int64_t num_classes = 0, num_train_timesteps = 0, parameters = 0;
  std::int64_t branches = 2;                             // 1: w is an input of the network
  double guidance_low = 0.0, guidance_high = kAnyScale;  // the scales that one branch was trained for
  std::vector<std::vector<std::int64_t>> grids;  // that a few-step student was trained for; empty: any timesteps
  SamplingPlan sampling;
  std::optional<WholeSampler> sampler;
  bool latents = false;            // x is an autoencoder's latents
  std::optional<Decoder> decoder;  // of these
  Host host;

  std::int64_t image_size() const { return channels * height * width; }  // of x

  bool has(const char *graph) const { return graphs.count(graph) != 0; }

  // Noises that an image of so many steps takes: the start, or with the solver consistency one for each step.
  std::int64_t noises(std::int64_t steps) const { return sampling.consistency ? steps : 1; }

  // Steps of the sampler graph; 0: there is none.
  std::int64_t sampler_steps() const { return sampler ? static_cast<std::int64_t>(sampler->timesteps.size()) : 0; }
};

// Read the text of a manifest.json; `source` is what messages call it.
//
// Throws Failure: DD_DAMAGED for what is not a manifest or makes no sense, DD_UNSUPPORTED for a format, backend or
// solver that this library does not know.
Manifest parse_manifest(std::string_view text, const std::string &source);

}  // namespace dashdeploy::detail
