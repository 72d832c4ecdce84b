// libFuzzer target of the manifest reader: any text gives a manifest or a Failure, and nothing else.
#include "manifest.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  try {
    dashdeploy::detail::parse_manifest(std::string_view(reinterpret_cast<const char *>(data), size), "fuzz");
  } catch (const dashdeploy::detail::Failure &) {
  }
  return 0;
}
