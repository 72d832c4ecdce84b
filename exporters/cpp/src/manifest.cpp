// Reading a manifest: nothing in it is trusted, and every message names the key.
#include "manifest.h"

#include <algorithm>
#include <array>

#include "json_reader.h"

namespace dashdeploy::detail {
namespace {

constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;  // of one image: products of sides stay below 2^63
constexpr std::int64_t kMostTimesteps = std::int64_t{1} << 20;
constexpr std::int64_t kMostClasses = std::int64_t{1} << 24;
constexpr std::int64_t kMostBatch = std::int64_t{1} << 20;
constexpr double kMostScale = 1e6, kMostSlope = 1e9;

struct Signature {
  std::vector<std::string> inputs;
  std::string output;
};

// Graph -> its inputs, in order, and its output; of guided and cond it is what the student predicts.
const std::map<std::string, Signature> &signatures() {
  static const std::map<std::string, Signature> by_name = {
      {"guided", {{"x", "t", "y", "w"}, "eps"}},
      {"cond", {{"x", "t", "y"}, "eps"}},
      {"step", {{"x", "t", "t_prev", "y", "w"}, "x_prev"}},
      {"sampler", {{"noise", "y", "w"}, "images"}},
      {"decoder", {{"latents"}, "images"}},
  };
  return by_name;
}

bool runs_engines(const Manifest &manifest) {
  return manifest.backend == "tensorrt" || manifest.backend == "tensorrt_rtx";
}

// A file of the artifact's folder: a name without folders.
std::string file_name(const JsonReader &value, const std::string &name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  const bool fits = !name.empty() && name.size() <= 255 && plain(name.front()) &&
                    std::all_of(name.begin(), name.end(), [&](char c) { return plain(c) || c == '.' || c == '-'; });
  if (!fits) value.refuse("names '", name.substr(0, 100), "', which is not a file inside of the artifact's folder");
  return name;
}

std::string sha256(const JsonReader &value) {
  const std::string &text = value.text();
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    value.refuse("is not a SHA-256");
  return text;
}

Guidance guidance(const JsonReader &value) {
  Guidance read;
  if (value.is_number()) {
    read.w = value.number(0, kMostScale);
  } else if (value.at("kind").one_of({"tag", "interval"}) == "tag") {
    value.only({"kind", "w_min", "w_max", "beta"});
    read.kind = DD_GUIDANCE_TAG;
    read.w_min = value.at("w_min").number(0, kMostScale);
    read.w = value.at("w_max").number(read.w_min, kMostScale);
    read.beta = value.at("beta").number(0, kMostSlope);
    if (read.beta == 0) value.at("beta").refuse("must be above 0");
  } else {
    value.only({"kind", "w", "low", "high"});
    read.kind = DD_GUIDANCE_INTERVAL;
    read.w = value.at("w").number(0, kMostScale);
    read.low = value.at("low").number(0, 1);
    read.high = value.at("high").number(0, 1);
    if (read.low >= read.high) value.refuse("must have low below high");
  }
  return read;
}

std::vector<std::int64_t> timesteps(const JsonReader &value, const Manifest &manifest) {
  std::vector<std::int64_t> read;
  for (const JsonReader &item : value.items(1, manifest.num_train_timesteps)) {
    read.push_back(item.integer(0, manifest.num_train_timesteps - 1));
    if (read.size() > 1 && read.back() >= read[read.size() - 2]) value.refuse("must descend");
  }
  return read;
}

// Refuse steps that a few-step student, or scales that one branch was not trained for.
void trained_for(const JsonReader &value, const std::vector<std::int64_t> &steps, const std::vector<double> &scales,
                 const Manifest &manifest) {
  const auto &grids = manifest.grids;
  if (!grids.empty() && std::find(grids.begin(), grids.end(), steps) == grids.end())
    value.at("timesteps").refuse("must be one of grids");
  for (const double w : scales)
    if (w < manifest.guidance_low || w > manifest.guidance_high)
      value.at("guidance_scales").refuse("must be within guidance_range");
}

// A scale for each of so many steps.
std::vector<double> scales(const JsonReader &value, std::size_t steps) {
  std::vector<double> read;
  const auto count = static_cast<std::int64_t>(steps);
  for (const JsonReader &item : value.items(count, count)) read.push_back(item.number(0, kMostScale));
  return read;
}

SamplingPlan sampling_plan(const JsonReader &value, const Manifest &manifest) {
  SamplingPlan read;
  read.timesteps = timesteps(value.at("timesteps"), manifest);
  const std::vector<double> given = scales(value.at("guidance_scales"), read.timesteps.size());
  trained_for(value, read.timesteps, given, manifest);
  for (const double w : given) read.guidance_scales.push_back(static_cast<float>(w));
  read.timestep_spacing = value.at("timestep_spacing").one_of({"trailing", "leading", "linspace"});
  read.consistency = value.at("solver").one_of({"ddim", "consistency"}, DD_UNSUPPORTED) == "consistency";
  if (read.consistency && manifest.grids.empty())
    value.at("solver").refuse("consistency is of a few-step student, and grids is empty");
  read.guidance = guidance(value.at("guidance"));
  read.clip_sample = value.at("clip_sample").boolean();
  return read;
}

WholeSampler whole_sampler(const JsonReader &value, const Manifest &manifest) {
  WholeSampler read;
  read.timesteps = timesteps(value.at("timesteps"), manifest);
  trained_for(value, read.timesteps, scales(value.at("guidance_scales"), read.timesteps.size()), manifest);
  read.output = value.at("output").one_of({"float32", "uint8"});
  read.decode = value.at("decode").boolean();
  if (read.decode && !manifest.decoder) value.at("decode").refuse("is true, and there is no decoder");
  return read;
}

// (C, H, W).
std::array<std::int64_t, 3> image_shape(const JsonReader &value) {
  const auto sides = value.items(0, 8);
  if (sides.size() != 3) value.refuse("must be (channels, height, width)");
  std::array<std::int64_t, 3> read{};
  for (std::size_t i = 0; i < 3; ++i) read[i] = sides[i].integer(1, 1 << 16);
  if (read[0] * read[1] * read[2] > kMostPixels) value.refuse("has more than ", kMostPixels, " values");
  return read;
}

Decoder decoder(const JsonReader &value) {
  Decoder read;
  const auto shape = image_shape(value.at("image_shape"));
  read.channels = shape[0];
  read.height = shape[1];
  read.width = shape[2];
  if (read.channels != 1 && read.channels != 3) value.at("image_shape").refuse("must have 1 or 3 channels");
  read.bytes = value.at("output").one_of({"float32", "uint8"}) == "uint8";
  read.at_once = value.at("at_once").integer(1, 4096);
  read.precision = value.at("precision").one_of({"fp32", "fp16", "bf16", "int8"});
  sha256(value.at("sha256"));
  return read;
}

Host host(const JsonReader &value) {
  Host read;
  read.small = value.at("small").boolean();
  read.cond_gain = value.at("cond_gain").number(0, 1);
  read.cond_gain_few = value.at("cond_gain_few").number(0, 1);
  return read;
}

// One tensor of a graph: its name, type and shape are those of the signature, or the graph is another one.
void tensor(const JsonReader &value, const std::string &name, const Manifest &manifest, const std::string &graph) {
  const bool in_sampler = graph == "sampler", image = name != "t" && name != "t_prev" && name != "y" && name != "w";
  std::string dtype = image || name == "w" ? "float32" : "int64";
  if (name == "images") dtype = in_sampler ? manifest.sampler->output : manifest.decoder->bytes ? "uint8" : "float32";
  std::vector<std::int64_t> sides;  // after the batch
  if (image) sides = {manifest.channels, manifest.height, manifest.width};
  if (name == "images" && (!in_sampler || manifest.sampler->decode))
    sides = {manifest.decoder->channels, manifest.decoder->height, manifest.decoder->width};
  if (name == "noise" && manifest.sampling.consistency) sides.insert(sides.begin(), manifest.sampler_steps());
  if (in_sampler && name == "w") sides = {static_cast<std::int64_t>(manifest.sampler->timesteps.size())};
  if (value.at("name").text() != name) value.at("name").refuse("must be ", name);
  if (value.at("dtype").text() != dtype) value.at("dtype").refuse("of ", name, " must be ", dtype);
  const JsonReader shape = value.at("shape");
  const auto given = shape.items(0, 8);
  if (given.size() != sides.size() + 1) shape.refuse("of ", name, " has ", given.size(), " dimensions");
  if (given[0].text() != "batch") shape.refuse("of ", name, " must begin with batch");
  for (std::size_t i = 0; i < sides.size(); ++i)
    if (given[i + 1].integer(1, kMostCount) != sides[i])
      shape.refuse("of ", name, image ? " is not that of image_shape" : " is not one scale for each of its timesteps");
}

Engine engine(const JsonReader &value, const std::string &backend) {
  Engine read;
  if (value.at("flavour").text() != backend) value.at("flavour").refuse("must be ", backend);
  read.tensorrt = value.at("tensorrt").text();
  for (const JsonReader &item : value.at("compute_capabilities").items(1, 64))
    read.compute_capabilities.push_back(item.text());
  const JsonReader flags = value.at("flags");
  read.version_compatible = flags.at("version_compatible").boolean();
  read.hardware_compatibility =
      flags.at("hardware_compatibility").one_of({"none", "ampere_plus", "same_compute_capability"});
  for (const JsonReader &profile : value.at("profiles").items(1, 64)) {
    const std::int64_t low = profile.at("min").integer(1, kMostBatch);
    const std::int64_t usual = profile.at("opt").integer(low, kMostBatch);
    read.profiles.push_back({low, usual, profile.at("max").integer(usual, kMostBatch)});
  }
  return read;
}

const char *predicted(Prediction prediction) {
  return prediction == Prediction::v ? "v" : prediction == Prediction::sample ? "x_0" : "eps";
}

Graph graph(const std::string &name, const JsonReader &value, const Manifest &manifest) {
  const auto known = signatures().find(name);
  if (known == signatures().end()) value.refuse("is not a graph; known: guided, cond, step, sampler, decoder");
  const bool is_sampler = name == "sampler";
  if (name == "cond" && manifest.branches == 1) value.refuse("is there, and a student of one branch has none");
  if (is_sampler && !manifest.sampler) value.refuse("is there, and artifact.sampler does not say its timesteps");
  if (name == "decoder" && !manifest.decoder) value.refuse("is there, and artifact.decoder does not say its images");
  Graph read;
  read.inputs = known->second.inputs;
  read.file = file_name(value.at("file"), value.at("file").text());
  for (const JsonReader &item : value.at("files").items(1, 1024)) {
    read.files.push_back(file_name(item, item.text()));
    if (manifest.files.count(read.files.back()) == 0)
      value.at("files").refuse("names '", read.files.back(), "', which the manifest's files does not list");
  }
  if (std::find(read.files.begin(), read.files.end(), read.file) == read.files.end())
    value.at("file").refuse("is '", read.file, "', which the graph's files does not list");
  const auto inputs = value.at("inputs").items(1, 16), outputs = value.at("outputs").items(1, 1);
  if (inputs.size() != read.inputs.size())
    value.refuse("has ", inputs.size(), " inputs; expected ", read.inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) tensor(inputs[i], read.inputs[i], manifest, name);
  const bool predicts = known->second.output == "eps";
  tensor(outputs[0], predicts ? predicted(manifest.prediction) : known->second.output, manifest, name);
  if (runs_engines(manifest))
    read.engine = engine(value.at("engine"), manifest.backend);
  else if (value.has_value("engine"))
    value.at("engine").refuse("is there, and backend is ", manifest.backend);
  return read;
}

void student(const JsonReader &value, Manifest &manifest) {
  manifest.precision = value.at("precision").one_of({"fp32", "fp16", "bf16", "int8"});
  const std::string &predicts = value.at("prediction_type").one_of({"epsilon", "v_prediction", "sample"});
  manifest.prediction = predicts == "v_prediction" ? Prediction::v
                        : predicts == "sample"     ? Prediction::sample
                                                   : Prediction::epsilon;
  const auto shape = image_shape(value.at("image_shape"));
  manifest.channels = shape[0];
  manifest.height = shape[1];
  manifest.width = shape[2];
  manifest.latents = value.at("latents").boolean();
  if (!value.at("decoder").is_null()) manifest.decoder = decoder(value.at("decoder"));
  if (manifest.decoder && !manifest.latents) value.at("decoder").refuse("is of latents, and latents is false");
  manifest.num_classes = value.at("num_classes").integer(1, kMostClasses);
  for (const JsonReader &item : value.at("classes").items(0, kMostClasses)) manifest.classes.push_back(item.text());
  if (static_cast<std::int64_t>(manifest.classes.size()) != manifest.num_classes)
    value.at("classes").refuse("has ", manifest.classes.size(), " names for ", manifest.num_classes, " classes");
  if (value.at("null_class").integer(0, kMostCount) != manifest.num_classes)
    value.at("null_class").refuse("must be num_classes, ", manifest.num_classes);
  manifest.num_train_timesteps = value.at("num_train_timesteps").integer(1, kMostTimesteps);
  const auto betas = value.at("betas").items(0, kMostTimesteps);
  for (const JsonReader &item : betas) {
    manifest.betas.push_back(item.number(0, 1));
    const double beta = manifest.betas.back();
    const bool ends = manifest.betas.size() == betas.size() && manifest.prediction != Prediction::epsilon;
    if (beta <= 0 || (beta >= 1 && !ends)) item.refuse("must be between 0 and 1");
  }
  if (static_cast<std::int64_t>(manifest.betas.size()) != manifest.num_train_timesteps)
    value.at("betas").refuse("has ", manifest.betas.size(), " values for ", manifest.num_train_timesteps, " timesteps");
  manifest.branches = value.at("branches").integer(1, 2);
  if (value.at("guidance_range").is_null() != (manifest.branches == 2))
    value.at("guidance_range").refuse("is of a student of one branch, and null of one of two");
  if (manifest.branches == 1) {
    const auto range = value.at("guidance_range").items(2, 2);
    manifest.guidance_low = range[0].number(0, kMostScale);
    manifest.guidance_high = range[1].number(0, kMostScale);
    if (manifest.guidance_low >= manifest.guidance_high)
      value.at("guidance_range").refuse("must be two scales, the lower one first");
  }
  for (const JsonReader &item : value.at("grids").items(0, 64)) manifest.grids.push_back(timesteps(item, manifest));
  manifest.parameters = value.at("parameters").integer(0, kMostCount);
}

void artifact(const JsonReader &value, Manifest &manifest) {
  manifest.backend =
      value.at("backend").one_of({"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}, DD_UNSUPPORTED);
  student(value, manifest);
  if (value.has("providers"))
    for (const JsonReader &item : value.at("providers").items(0, 16)) manifest.providers.push_back(item.text());
  if (manifest.backend == "onnxruntime" && manifest.providers.empty()) value.refuse("has no providers");
  manifest.host = host(value.at("host"));
  manifest.sampling = sampling_plan(value.at("sampling"), manifest);
  if (value.has_value("sampler")) manifest.sampler = whole_sampler(value.at("sampler"), manifest);
  for (const auto &[name, entry] : value.at("graphs").entries())
    manifest.graphs.emplace(name, graph(name, entry, manifest));
  if (manifest.decoder && !manifest.has("decoder")) value.at("graphs").refuse("has no decoder, which artifact.decoder is");
  if (!manifest.has("guided")) value.at("graphs").refuse("has no guided graph");
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string &source) {
  JsonReader::Json json;
  try {
    json = JsonReader::Json::parse(text.begin(), text.end());
  } catch (const JsonReader::Json::exception &error) {
    fail(DD_DAMAGED, source, ": not JSON (", std::string(error.what()).substr(0, 160), ")");
  }
  const JsonReader top(json, "", source);
  const std::int64_t format = top.at("format").integer(0, kMostCount);
  if (format != kFormat)
    top.at("format").refuse_as(DD_UNSUPPORTED, "is ", format, ", and this library reads ", kFormat,
                               ". Export the artifact again with the dashdeploy that this library came from");
  Manifest manifest;
  manifest.name = top.at("stage").text();
  for (const auto &[name, value] : top.at("files").entries())
    manifest.files.emplace(file_name(value, name), sha256(value));
  artifact(top.at("artifact"), manifest);
  return manifest;
}

}  // namespace dashdeploy::detail
