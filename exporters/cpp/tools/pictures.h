// Images as a picture file: PNG or PPM/PGM, or their float32 values as they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Write images (count, C, H, W) in [-1, 1] into a grid of so many columns: .png, .ppm and .pgm with one or three
// channels, .f32 with any. Throws std::runtime_error.
void write_images(const std::string &path, const std::vector<float> &images, std::int64_t channels, std::int64_t height,
                  std::int64_t width, std::int64_t columns, std::int64_t scale);
