// Reading a manifest: nothing in it is trusted, and every message names the key.
#include "manifest.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "error.h"

namespace dashdeploy::detail {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMost = std::int64_t{1} << 31;  // of any count; products of three stay below 2^63 by kMostPixels
constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;

// Values of one manifest by key path, each with its type and range.
class Reader {
 public:
  Reader(const Json &value, std::string path, const std::string &source)
      : value_(value), path_(std::move(path)), source_(source) {}

  template <typename... Parts>
  [[noreturn]] void bad(const Parts &...parts) const {
    fail(DD_DAMAGED, source_, ": ", path_.empty() ? std::string("the manifest") : path_, " ", parts...);
  }

  bool has(const char *key) const { return value_.is_object() && value_.contains(key) && !value_[key].is_null(); }

  Reader at(const char *key) const {
    if (!value_.is_object()) bad("must be an object");
    if (!value_.contains(key)) bad("has no ", key);
    return Reader(value_[key], path_.empty() ? key : path_ + "." + key, source_);
  }

  std::vector<Reader> items(std::int64_t most = kMost) const {
    if (!value_.is_array()) bad("must be a list");
    if (value_.size() > static_cast<std::size_t>(most)) bad("has ", value_.size(), " values; at most ", most);
    std::vector<Reader> found;
    found.reserve(value_.size());
    for (const Json &item : value_) found.emplace_back(item, path_, source_);
    return found;
  }

  std::vector<std::pair<std::string, Reader>> entries() const {
    if (!value_.is_object()) bad("must be an object");
    std::vector<std::pair<std::string, Reader>> found;
    for (auto item = value_.begin(); item != value_.end(); ++item)
      found.emplace_back(item.key(), Reader(item.value(), path_ + "." + item.key(), source_));
    return found;
  }

  std::int64_t integer(std::int64_t low, std::int64_t high) const {
    if (!value_.is_number_integer()) bad("must be a whole number");
    const bool fits = !value_.is_number_unsigned() || value_.get<std::uint64_t>() <= static_cast<std::uint64_t>(kMost);
    const std::int64_t found = fits ? value_.get<std::int64_t>() : kMost + 1;
    if (found < low || found > high) bad("must be in ", low, " ... ", high);
    return found;
  }

  double number(double low, double high) const {
    if (!value_.is_number()) bad("must be a number");
    const double found = value_.get<double>();
    if (!(found >= low && found <= high)) bad("must be in ", low, " ... ", high);
    return found;
  }

  bool boolean() const {
    if (!value_.is_boolean()) bad("must be true or false");
    return value_.get<bool>();
  }

  const std::string &text() const {
    if (!value_.is_string()) bad("must be text");
    const std::string &found = value_.get_ref<const std::string &>();
    if (found.size() > 4096 || found.find('\0') != std::string::npos) bad("is not a line of text");
    return found;
  }

  bool is_object() const { return value_.is_object(); }
  bool is_number() const { return value_.is_number(); }

 private:
  const Json &value_;
  std::string path_;
  const std::string &source_;
};

std::string one_of(const Reader &value, const std::set<std::string> &known) {
  const std::string &found = value.text();
  if (known.count(found) != 0) return found;
  std::string all;
  for (const std::string &name : known) all += (all.empty() ? "" : ", ") + name;
  value.bad("is '", found.substr(0, 60), "'; known: ", all);
}

// A name inside of the artifact's folder: relative, and never upwards.
std::string file_name(const Reader &value, const std::string &name) {
  bool inside = !name.empty() && name.front() != '/' && name.find('\\') == std::string::npos && name.size() < 1024;
  for (std::size_t begin = 0; inside && begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    inside = !part.empty() && part != "." && part != ".." && part.find('\0') == std::string::npos;
    begin = end + 1;
  }
  if (!inside) value.bad("names '", name.substr(0, 100), "', which is not a file inside of the artifact's folder");
  return name;
}

std::string hash(const Reader &value) {
  const std::string &found = value.text();
  if (found.size() != 64 || found.find_first_not_of("0123456789abcdef") != std::string::npos)
    value.bad("is not a SHA-256");
  return found;
}

Guidance guidance(const Reader &value) {
  constexpr double most = 1e6;
  Guidance found;
  if (value.is_number()) {
    found.w = value.number(0, most);
    return found;
  }
  if (one_of(value.at("kind"), {"tag", "interval"}) == "tag") {
    found.kind = DD_GUIDANCE_TAG;
    found.w_min = value.at("w_min").number(0, most);
    found.w = value.at("w_max").number(0, most);
    found.beta = value.at("beta").number(-most, most);
  } else {
    found.kind = DD_GUIDANCE_INTERVAL;
    found.w = value.at("w").number(0, most);
    found.low = value.at("low").number(0, 1);
    found.high = value.at("high").number(0, 1);
  }
  return found;
}

// One tensor of a graph: its name, type and shape are those of the contract, or the graph is another one.
void tensor(const Reader &value, const std::string &name, const Manifest &artifact, bool whole) {
  const bool image = name == "x" || name == "eps" || name == "x_prev" || name == "noise" || name == "images";
  const bool real = image || name == "w";
  if (value.at("name").text() != name) value.at("name").bad("must be ", name);
  if (value.at("dtype").text() != (real ? "float32" : "int64"))
    value.at("dtype").bad("of ", name, " must be ", real ? "float32" : "int64");
  const auto shape = value.at("shape").items(8);
  const std::vector<std::int64_t> sides = {artifact.channels, artifact.height, artifact.width};
  if (shape.size() != (image ? 4U : whole && name == "w" ? 2U : 1U))
    value.at("shape").bad("of ", name, " has ", shape.size(), " dimensions");
  if (shape[0].text() != "batch") shape[0].bad("of ", name, " must begin with batch");
  if (shape.size() == 2 && shape[1].integer(1, kMost) != static_cast<std::int64_t>(artifact.sampler_timesteps.size()))
    shape[1].bad("of w is not the number of the sampler's timesteps");
  for (std::size_t i = 1; image && i < shape.size(); ++i)
    if (shape[i].integer(1, kMost) != sides[i - 1]) shape[i].bad("of ", name, " is not that of image_shape");
}

Engine engine(const Reader &value, const std::string &backend, Manifest &artifact) {
  Engine found;
  if (value.at("flavour").text() != backend) value.at("flavour").bad("must be ", backend);
  found.tensorrt = value.at("tensorrt").text();
  found.plan_sha256 = hash(value.at("plan_sha256"));
  for (const Reader &item : value.at("compute_capabilities").items(64))
    found.compute_capabilities.push_back(item.text());
  const Reader flags = value.at("flags");
  if (flags.has("version_compatible")) found.version_compatible = flags.at("version_compatible").boolean();
  if (flags.has("hardware_compatibility"))
    found.hardware_compatibility =
        one_of(flags.at("hardware_compatibility"), {"none", "ampere_plus", "same_compute_capability"});
  std::int64_t largest = 0;
  for (const Reader &profile : value.at("profiles").items(64))
    largest = std::max(largest, profile.at("max").integer(1, 1 << 20));
  if (largest == 0) value.at("profiles").bad("is empty");
  artifact.max_batch = artifact.max_batch == 0 ? largest : std::min(artifact.max_batch, largest);
  return found;
}

void graph(const std::string &name, const Reader &value, Manifest &artifact) {
  static const std::map<std::string, std::pair<std::vector<std::string>, std::string>> contract = {
      {"guided", {{"x", "t", "y", "w"}, "eps"}},
      {"cond", {{"x", "t", "y"}, "eps"}},
      {"step", {{"x", "t", "t_prev", "y", "w"}, "x_prev"}},
      {"sampler", {{"noise", "y", "w"}, "images"}},
  };
  const auto known = contract.find(name);
  const bool whole = name == "sampler";
  if (known == contract.end() || (whole && artifact.sampler_timesteps.empty())) return;
  const auto &[names, output] = known->second;
  Graph found;
  found.inputs = names;
  found.file = file_name(value.at("file"), value.at("file").text());
  for (const Reader &item : value.at("files").items(1024)) found.files.push_back(file_name(item, item.text()));
  for (const std::string &file : {found.file})
    if (artifact.files.count(file) == 0) value.at("file").bad("is '", file, "', which files does not list");
  for (const std::string &file : found.files)
    if (artifact.files.count(file) == 0) value.at("files").bad("names '", file, "', which files does not list");
  const auto inputs = value.at("inputs").items(16), outputs = value.at("outputs").items(16);
  if (inputs.size() != names.size() || outputs.size() != 1)
    value.bad("has ", inputs.size(), " inputs and ", outputs.size(), " outputs; expected ", names.size(), " and 1");
  for (std::size_t i = 0; i < names.size(); ++i) tensor(inputs[i], names[i], artifact, whole);
  tensor(outputs[0], output, artifact, whole);
  const bool by_engine = artifact.backend == "tensorrt" || artifact.backend == "tensorrt_rtx";
  if (by_engine) found.engine = engine(value.at("engine"), artifact.backend, artifact);
  artifact.graphs.emplace(name, std::move(found));
}

void artifact_part(const Reader &value, Manifest &artifact) {
  artifact.backend = value.at("backend").text();
  artifact.precision = value.at("precision").text();
  one_of(value.at("prediction_type"), {"epsilon"});
  const auto shape = value.at("image_shape").items(8);
  if (shape.size() != 3) value.at("image_shape").bad("must be (channels, height, width)");
  artifact.channels = shape[0].integer(1, 1 << 16);
  artifact.height = shape[1].integer(1, 1 << 16);
  artifact.width = shape[2].integer(1, 1 << 16);
  if (artifact.channels * artifact.height > kMostPixels || artifact.image_size() > kMostPixels)
    value.at("image_shape").bad("has more than ", kMostPixels, " values");
  artifact.num_classes = value.at("num_classes").integer(1, 1 << 24);
  for (const Reader &item : value.at("classes").items(1 << 24)) artifact.classes.push_back(item.text());
  if (static_cast<std::int64_t>(artifact.classes.size()) != artifact.num_classes)
    value.at("classes").bad("has ", artifact.classes.size(), " names for ", artifact.num_classes, " classes");
  if (value.at("null_class").integer(0, kMost) != artifact.num_classes)
    value.at("null_class").bad("must be num_classes, ", artifact.num_classes);
  artifact.num_train_timesteps = value.at("num_train_timesteps").integer(1, 1 << 20);
  for (const Reader &item : value.at("betas").items(1 << 20)) {
    artifact.betas.push_back(item.number(0, 1));
    if (artifact.betas.back() <= 0 || artifact.betas.back() >= 1) item.bad("must be between 0 and 1");
  }
  if (static_cast<std::int64_t>(artifact.betas.size()) != artifact.num_train_timesteps)
    value.at("betas").bad("has ", artifact.betas.size(), " values for ", artifact.num_train_timesteps, " timesteps");
  artifact.parameters = value.at("parameters").integer(0, kMost);
  artifact.macs = value.has("macs") ? static_cast<std::int64_t>(value.at("macs").number(0, 1e18)) : 0;
  artifact.clip_sample = value.at("clip_sample").boolean();
  if (value.has("providers"))
    for (const Reader &item : value.at("providers").items(16)) artifact.providers.push_back(item.text());
  const Reader sampling = value.at("sampling");
  artifact.num_inference_steps = sampling.at("num_inference_steps").integer(1, artifact.num_train_timesteps);
  artifact.timestep_spacing = one_of(sampling.at("timestep_spacing"), {"trailing", "leading", "linspace"});
  if (sampling.has("solver")) one_of(sampling.at("solver"), {"ddim"});  // all that this library runs
  artifact.guidance = guidance(sampling.at("guidance"));
  // Only the host's backends use the whole-sampler graph, and only where it gives float32.
  const bool by_host = artifact.backend == "openvino" || artifact.backend == "onnxruntime";
  if (by_host && value.has("sampler") && value.at("graphs").has("sampler") &&
      value.at("sampler").at("output").text() == "float32")
    for (const Reader &item : value.at("sampler").at("timesteps").items(1 << 20))
      artifact.sampler_timesteps.push_back(item.integer(0, artifact.num_train_timesteps - 1));
  for (const auto &[name, entry] : value.at("graphs").entries()) graph(name, entry, artifact);
  if (artifact.graphs.count("step") == 0 && artifact.graphs.count("guided") == 0)
    value.at("graphs").bad("has neither a step nor a guided graph");
}

}  // namespace

Manifest parse_manifest(std::string_view text, const std::string &source) {
  Json json;
  try {
    json = Json::parse(text.begin(), text.end());
  } catch (const Json::exception &error) {
    fail(DD_DAMAGED, source, ": not JSON (", std::string(error.what()).substr(0, 160), ")");
  }
  const Reader top(json, "", source);
  const std::int64_t format = top.at("format").integer(0, kMost);
  if (format != kFormat)
    fail(DD_UNSUPPORTED, source, ": format ", format, "; this library reads ", kFormat,
         ". Export again with a dashdeploy that fits it");
  Manifest found;
  found.name = top.at("stage").text();
  for (const auto &[name, value] : top.at("files").entries()) found.files.emplace(file_name(value, name), hash(value));
  artifact_part(top.at("artifact"), found);
  return found;
}

}  // namespace dashdeploy::detail
