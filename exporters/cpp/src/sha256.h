// SHA-256 by libcrypto.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace dashdeploy::detail {

std::string sha256_hex(std::string_view bytes);

// Of a file's bytes; throws Failure(DD_NOT_FOUND).
std::string sha256_hex_of_file(const std::filesystem::path &path);

}  // namespace dashdeploy::detail
