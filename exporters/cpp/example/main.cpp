// The smallest application: open an artifact, draw an image of each class, print them as text.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <vector>

#include "dashdeploy/dashdeploy.hpp"

int main(int count, char **values) {
  if (count != 2) {
    std::cerr << "usage: dashdeploy-example ARTIFACT\n";
    return 2;
  }
  try {
    dashdeploy::Model model(values[1]);
    const dd_info info = model.info();

    std::vector<std::int64_t> labels(static_cast<std::size_t>(std::min<std::int64_t>(info.num_classes, 4)));
    std::iota(labels.begin(), labels.end(), 0);
    const auto report = [](std::int64_t done, std::int64_t total) {
      std::cerr << "\rstep " << done << " of " << total << std::flush;
      return true;  // false cancels
    };
    const auto guidance = dashdeploy::Guidance::interval(3.0, 0.2, 0.8);
    const std::vector<float> images = model.sample(labels, /*seed=*/7, guidance, /*steps=*/50, report);

    for (std::size_t i = 0; i < labels.size(); ++i) {
      std::cout << "\nclass " << dd_class_name(model.get(), labels[i]) << "\n";
      const float *image = images.data() + i * model.image_size();  // the first channel is shown
      for (std::int64_t y = 0; y < info.image_height; ++y, std::cout << "\n")
        for (std::int64_t x = 0; x < info.image_width; ++x)
          std::cout << " .:-=+*#%@"[std::clamp(static_cast<int>((image[y * info.image_width + x] + 1) * 5), 0, 9)];
    }
  } catch (const dashdeploy::Error &error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
