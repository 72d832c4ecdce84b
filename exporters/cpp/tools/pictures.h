// Images as a picture file: PNG or PPM/PGM, or the float32 values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Write images (count, C, H, W) in [-1, 1] as a grid with this number of columns: .png, .ppm and .pgm with one or three
// channels, .f32 with any number. Throws std::runtime_error.
void write_images(const std::string &path, const std::vector<float> &images, std::int64_t channels, std::int64_t height,
                  std::int64_t width, std::int64_t columns, std::int64_t scale);
