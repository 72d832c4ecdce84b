// dashdeploy-sample: draw images from an artifact and write them as a picture; time it with --repeat.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "dashdeploy/dashdeploy.hpp"
#include "pictures.h"

namespace {

constexpr const char *kHelp = R"(usage: dashdeploy-sample ARTIFACT [options]

ARTIFACT             a folder that `dashdeploy export` wrote
  --labels LIST      class indices, as in 0,3,7 or 0-9; default: the first ten classes
  --columns N        images of each class (1); the picture has as many columns
  -w, --guidance W   a number (1 = off), tag, tag:W_MIN:W_MAX, or an interval as in 3@0.2-0.8; default: the artifact's
  --steps N          steps of the sampler; default: the artifact's
  --seed N           of the noise (0); the same number gives the same noise in `dashdeploy sample`
  --noise FILE       this noise instead: float32, (images, C, H, W), with the solver consistency (images, steps, C, H, W),
                     little-endian
  --out FILE         .png, .ppm, .pgm, or .f32 for the float32 values (samples.png)
  --scale N          enlarge each pixel (4)
  --threads N        CPU threads; default: all
  --max-batch N      images in one call of the network at most
  --device N         CUDA device (0)
  --key PUB          a minisign public key, or its file, that must have signed the artifact
  --concurrency N    draw it in N threads at once and check that all get the same images (1)
  --repeat N         time N more runs and print a line of JSON: milliseconds of each, and the share outside the backend
  --progress         print each step
  --loop             step by step, even if the artifact's sampler graph fits the request
  --info             only print what the artifact is
)";

struct Arguments {
  std::string artifact, labels, guidance, noise, key, out = "samples.png";
  std::int64_t columns = 1, steps = 0, scale = 4, threads = 0, max_batch = 0, device = 0, concurrency = 1, repeat = 0;
  std::uint64_t seed = 0;
  bool progress = false, loop = false, info = false;
};

[[noreturn]] void misuse(const std::string &text) {
  throw std::invalid_argument(text + "; see dashdeploy-sample --help");
}

template <typename Number>
Number whole(const std::string &name, const std::string &text, Number low, Number high) {
  std::size_t used = 0;
  try {
    if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) {
      const unsigned long long number = std::stoull(text, &used);
      if (number >= static_cast<unsigned long long>(low) && number <= static_cast<unsigned long long>(high))
        return static_cast<Number>(number);
    }
  } catch (const std::out_of_range &) {
  }
  misuse(name + " is '" + text + "'; expected a whole number from " + std::to_string(low) + " to " +
         std::to_string(high));
}

double real(const std::string &name, const std::string &text) {
  std::size_t used = 0;
  try {
    const double number = std::stod(text, &used);
    if (used == text.size() && std::isfinite(number)) return number;
  } catch (const std::exception &) {
  }
  misuse(name + ": '" + text + "' is not a number");
}

Arguments parse(int count, char **values) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string name = values[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == count) misuse(name + " needs a value");
      return values[++i];
    };
    const auto number = [&](std::int64_t low, std::int64_t high) {
      return whole<std::int64_t>(name, value(), low, high);
    };
    if (name == "--labels")
      arguments.labels = value();
    else if (name == "--columns")
      arguments.columns = number(1, 100000);
    else if (name == "-w" || name == "--guidance")
      arguments.guidance = value();
    else if (name == "--steps")
      arguments.steps = number(1, 1 << 20);
    else if (name == "--seed")
      arguments.seed = whole<std::uint64_t>(name, value(), 0, UINT64_MAX);
    else if (name == "--noise")
      arguments.noise = value();
    else if (name == "--key")
      arguments.key = value();
    else if (name == "--out")
      arguments.out = value();
    else if (name == "--scale")
      arguments.scale = number(1, 1000);
    else if (name == "--threads")
      arguments.threads = number(1, 1024);
    else if (name == "--max-batch")
      arguments.max_batch = number(1, 65536);
    else if (name == "--device")
      arguments.device = number(0, 1024);
    else if (name == "--concurrency")
      arguments.concurrency = number(1, 1024);
    else if (name == "--repeat")
      arguments.repeat = number(1, 100000);
    else if (name == "--progress")
      arguments.progress = true;
    else if (name == "--loop")
      arguments.loop = true;
    else if (name == "--info")
      arguments.info = true;
    else if (name.size() > 1 && name.front() == '-')
      misuse("unknown option " + name);
    else if (arguments.artifact.empty())
      arguments.artifact = name;
    else
      misuse("unexpected " + name);
  }
  if (arguments.artifact.empty()) misuse("ARTIFACT is missing");
  return arguments;
}

std::vector<std::int64_t> labels(const Arguments &arguments, std::int64_t classes) {
  const std::string text =
      arguments.labels.empty() ? "0-" + std::to_string(std::min<std::int64_t>(10, classes) - 1) : arguments.labels;
  std::vector<std::int64_t> read;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const std::size_t dash = part.find('-');
    const auto low = whole<std::int64_t>("--labels", part.substr(0, dash), 0, classes - 1);
    const auto high =
        dash == std::string::npos ? low : whole<std::int64_t>("--labels", part.substr(dash + 1), low, classes - 1);
    for (std::int64_t label = low; label <= high; ++label)
      read.insert(read.end(), static_cast<std::size_t>(arguments.columns), label);
    begin = end + 1;
  }
  return read;
}

dashdeploy::Guidance guidance(const std::string &text) {
  using dashdeploy::Guidance;
  if (text.empty()) return {};
  if (text == "tag") return Guidance::tag(1.0, 4.0);
  if (text.rfind("tag:", 0) == 0) {
    const std::size_t colon = text.find(':', 4);
    if (colon == std::string::npos) misuse("-w " + text + ": expected tag:W_MIN:W_MAX");
    return Guidance::tag(real("-w", text.substr(4, colon - 4)), real("-w", text.substr(colon + 1)));
  }
  const std::size_t at = text.find('@'), dash = text.find('-', at == std::string::npos ? 0 : at);
  if (at == std::string::npos) return Guidance::constant(real("-w", text));
  if (dash == std::string::npos) misuse("-w " + text + ": expected an interval as in 3@0.2-0.8");
  return Guidance::interval(real("-w", text.substr(0, at)), real("-w", text.substr(at + 1, dash - at - 1)),
                            real("-w", text.substr(dash + 1)));
}

std::vector<float> read_noise(const std::string &path, std::size_t values) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  const auto size = static_cast<std::size_t>(file.tellg());
  if (size != values * sizeof(float))
    throw std::runtime_error(path + ": " + std::to_string(size) + " bytes; expected " +
                             std::to_string(values * sizeof(float)) + " for these labels");
  std::vector<float> noise(values);
  file.seekg(0);
  if (!file.read(reinterpret_cast<char *>(noise.data()), static_cast<std::streamsize>(size)))
    throw std::runtime_error(path + ": cannot be read");
  return noise;
}

void print_info(const dashdeploy::Model &model) {
  const dd_info info = model.info();
  std::cout << "target      " << info.name << "\nbackend     " << info.backend << ", " << info.precision
            << (info.latents != 0 && info.decodes == 0 ? "\nlatents     " : "\nimages      ") << info.image_channels
            << " x " << info.image_height << " x " << info.image_width << "\nclasses     "
            << info.num_classes << "\nsteps       " << info.num_inference_steps << " of " << info.num_train_timesteps
            << " by " << info.solver << "\nmax batch   " << info.max_batch << "\nparameters  " << info.parameters
            << "\n";
}

int show(void *, std::int64_t done, std::int64_t total) {
  std::cerr << "\rstep " << done << " of " << total << (done == total ? "\n" : "") << std::flush;
  return 0;
}

int ignore(void *, std::int64_t, std::int64_t) { return 0; }

void draw_in_threads(dashdeploy::Model &model, const dd_request &request, const std::vector<float> &expected,
                     std::int64_t threads) {
  std::vector<std::vector<float>> images(static_cast<std::size_t>(threads), std::vector<float>(expected.size()));
  std::vector<std::exception_ptr> errors(images.size());
  std::vector<std::thread> running;
  for (std::size_t i = 0; i < images.size(); ++i)
    running.emplace_back([&, i] {
      try {
        dd_request silent = request;
        silent.progress = nullptr;
        silent.timing = nullptr;
        model.sample(silent, images[i].data());
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  for (std::thread &thread : running) thread.join();
  for (const std::exception_ptr &error : errors)
    if (error) std::rethrow_exception(error);
  for (const auto &made : images)
    if (made != expected) throw std::runtime_error("several threads drew other images than one thread");
}

void measure(dashdeploy::Model &model, dd_request request, std::int64_t repeat, const dd_timing &first) {
  std::vector<float> images(static_cast<std::size_t>(request.count) * model.image_size());
  dd_timing timing = first;
  request.timing = &timing;
  if (request.progress == show) request.progress = ignore;
  std::string runs;
  double loop = 0, backend = 0;
  for (std::int64_t i = 0; i < repeat; ++i) {
    const auto before = std::chrono::steady_clock::now();
    model.sample(request, images.data());
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - before;
    runs += (runs.empty() ? "" : ", ") + std::to_string(took.count());
    loop += timing.loop_ms;
    backend += timing.backend_ms;
  }
  std::cout << "{\"images\": " << request.count << ", \"run_ms\": [" << runs
            << "], \"outside_backend\": " << 1.0 - backend / loop << "}\n";
}

int run(int count, char **values) {
  for (int i = 1; i < count; ++i)
    if (std::string(values[i]) == "--help" || std::string(values[i]) == "-h") {
      std::cout << kHelp;
      return 0;
    }
  const Arguments arguments = parse(count, values);
  dashdeploy::Model model(arguments.artifact, static_cast<int>(arguments.threads), static_cast<int>(arguments.device),
                          static_cast<int>(arguments.max_batch), arguments.key);
  const dd_info info = model.info();
  if (arguments.info) {
    print_info(model);
    return 0;
  }
  const std::vector<std::int64_t> chosen = labels(arguments, info.num_classes);
  std::vector<float> images(chosen.size() * model.image_size()), noise;
  const std::int64_t steps = arguments.steps > 0 ? arguments.steps : info.num_inference_steps;
  const auto noises = static_cast<std::size_t>(std::string(info.solver) == "consistency" ? steps : 1);
  if (!arguments.noise.empty()) noise = read_noise(arguments.noise, chosen.size() * model.noise_size() * noises);
  auto request = dashdeploy::sized<dd_request>();
  request.count = static_cast<std::int64_t>(chosen.size());
  request.labels = chosen.data();
  request.noise = noise.empty() ? nullptr : noise.data();
  request.seed = arguments.seed;
  request.steps = static_cast<std::int32_t>(arguments.steps);
  request.guidance = guidance(arguments.guidance);
  request.progress = arguments.progress ? show : arguments.loop ? ignore : nullptr;
  dd_timing timing{};
  request.timing = &timing;
  model.sample(request, images.data());
  if (arguments.concurrency > 1) draw_in_threads(model, request, images, arguments.concurrency);
  write_images(arguments.out, images, info.image_channels, info.image_height, info.image_width, arguments.columns,
               arguments.scale);
  if (arguments.repeat > 0)
    measure(model, request, arguments.repeat, timing);
  else
    std::cout << arguments.out << "\n";
  return 0;
}

}  // namespace

int main(int count, char **values) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // ONNX Runtime's, unless it was set otherwise
  try {
    return run(count, values);
  } catch (const std::invalid_argument &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  } catch (const dashdeploy::Error &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 10 + static_cast<int>(error.status());
  } catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
