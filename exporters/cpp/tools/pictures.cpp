// Grids of images, and the two picture formats that need no library.
#include "pictures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <stdexcept>

namespace {

using Bytes = std::string;

void add_word(Bytes &out, std::uint32_t word) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>((word >> shift) & 0xFF);
}

std::uint32_t crc32(const Bytes &bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320 : 0);
  }
  return ~crc;
}

void add_chunk(Bytes &png, const char *type, const Bytes &data) {
  add_word(png, static_cast<std::uint32_t>(data.size()));
  const Bytes typed = type + data;
  png += typed;
  add_word(png, crc32(typed));
}

// zlib's format (RFC 1950) with stored blocks: larger, but any reader takes it.
Bytes stored(const Bytes &data) {
  Bytes out = "\x78\x01";
  std::uint32_t a = 1, b = 0;
  for (const char byte : data) {
    a = (a + static_cast<unsigned char>(byte)) % 65521;
    b = (b + a) % 65521;
  }
  for (std::size_t at = 0; at < data.size();) {
    const std::size_t size = std::min<std::size_t>(data.size() - at, 65535);
    out += static_cast<char>(at + size == data.size() ? 1 : 0);
    for (const std::size_t word : {size, ~size & 0xFFFF}) {
      out += static_cast<char>(word & 0xFF);
      out += static_cast<char>(word >> 8);
    }
    out.append(data, at, size);
    at += size;
  }
  add_word(out, b << 16 | a);
  return out;
}

Bytes png(const Bytes &pixels, std::int64_t height, std::int64_t width, std::int64_t channels) {
  Bytes rows;
  for (std::int64_t y = 0; y < height; ++y) {
    rows += '\0';  // no filter
    rows.append(pixels, static_cast<std::size_t>(y * width * channels), static_cast<std::size_t>(width * channels));
  }
  Bytes header;
  add_word(header, static_cast<std::uint32_t>(width));
  add_word(header, static_cast<std::uint32_t>(height));
  header += '\x08';
  header += channels == 3 ? '\x02' : '\0';
  header.append(3, '\0');
  Bytes out = "\x89PNG\r\n\x1a\n";
  add_chunk(out, "IHDR", header);
  add_chunk(out, "IDAT", stored(rows));
  add_chunk(out, "IEND", "");
  return out;
}

}  // namespace

void write_images(const std::string &path, const std::vector<float> &images, std::int64_t channels, std::int64_t height,
                  std::int64_t width, std::int64_t columns, std::int64_t scale) {
  const auto dot = path.rfind('.');
  const std::string suffix = dot == std::string::npos ? "" : path.substr(dot);
  Bytes out;
  if (suffix == ".f32") {
    out.assign(reinterpret_cast<const char *>(images.data()), images.size() * sizeof(float));
  } else {
    if (suffix != ".png" && suffix != ".ppm" && suffix != ".pgm")
      throw std::runtime_error(path + ": expected a name that ends in .png, .ppm, .pgm or .f32");
    if (channels != 1 && channels != 3)
      throw std::runtime_error(path + ": images of " + std::to_string(channels) +
                               " channels are no picture; write .f32");
    const std::int64_t count = static_cast<std::int64_t>(images.size()) / (channels * height * width);
    const std::int64_t across = std::min(columns, count), down = (count + across - 1) / across;
    const std::int64_t side = across * width * scale, rows = down * height * scale,
                       gray = suffix == ".ppm" ? 3 : channels;
    Bytes pixels(static_cast<std::size_t>(side * rows * gray), '\0');
    for (std::int64_t y = 0; y < rows; ++y)
      for (std::int64_t x = 0; x < side; ++x) {
        const std::int64_t image = y / scale / height * across + x / scale / width;
        if (image >= count) continue;
        for (std::int64_t c = 0; c < gray; ++c) {
          const std::int64_t at =
              ((image * channels + std::min(c, channels - 1)) * height + y / scale % height) * width +
              x / scale % width;
          const float value = std::nearbyint((images[static_cast<std::size_t>(at)] + 1.0F) * 127.5F);
          pixels[static_cast<std::size_t>((y * side + x) * gray + c)] =
              static_cast<char>(static_cast<unsigned char>(std::clamp(value, 0.0F, 255.0F)));
        }
      }
    if (suffix == ".png") {
      out = png(pixels, rows, side, gray);
    } else {
      if (suffix == ".pgm" && channels != 1) throw std::runtime_error(path + ": .pgm is for one channel; write .ppm");
      out = (gray == 3 ? "P6\n" : "P5\n") + std::to_string(side) + " " + std::to_string(rows) + "\n255\n" + pixels;
    }
  }
  std::ofstream file(path, std::ios::binary);
  if (!file.write(out.data(), static_cast<std::streamsize>(out.size())) || !file.flush())
    throw std::runtime_error(path + ": cannot be written");
}
