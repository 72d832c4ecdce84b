// Opening an artifact's folder.
#include "artifact.h"

#include <fstream>
#include <system_error>

#include "error.h"
#include "sha256.h"
#include "signature.h"

namespace dashdeploy::detail {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kLargestManifest = 64U << 20;

std::uintmax_t size_of(const fs::path &path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) fail(DD_NOT_FOUND, path.string(), ": no such file");
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) fail(DD_NOT_FOUND, path.string(), ": ", error.message());
  return size;
}

std::string read_file(const fs::path &path, std::uintmax_t most) {
  const std::uintmax_t size = size_of(path);
  if (size > most) fail(DD_DAMAGED, path.string(), ": ", size, " bytes; expected at most ", most);
  std::ifstream file(path, std::ios::binary);
  std::string bytes(static_cast<std::size_t>(size), '\0');
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size)))
    fail(DD_NOT_FOUND, path.string(), ": cannot be read");
  return bytes;
}

}  // namespace

Artifact::Artifact(const fs::path &folder, const char *public_key) : folder_(folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) fail(DD_NOT_FOUND, folder.string(), ": no such folder");
  const fs::path path = folder / "manifest.json", sidecar = folder / "manifest.json.sha256";
  if (!fs::exists(path, error)) fail(DD_NOT_FOUND, folder.string(), ": not an artifact (it has no manifest.json)");
  const std::string text = read_file(path, kLargestManifest);
  // The format comes first: a manifest of another format is not damaged.
  manifest_ = parse_manifest(text, path.string());
  if (!fs::exists(sidecar, error))
    fail(DD_DAMAGED, sidecar.string(), ": missing; it holds the SHA-256 of manifest.json");
  if (read_file(sidecar, 4096) != sha256_hex(text) + "  manifest.json\n")
    fail(DD_DAMAGED, path.string(),
         ": damaged or changed since it was made (its SHA-256 differs from manifest.json.sha256's)");
  if (public_key != nullptr) check_signature(folder, text, public_key);
  for (const auto &[name, expected] : manifest_.files) {
    const fs::path file = folder / name;
    size_of(file);
    if (sha256_hex_of_file(file) != expected)
      fail(DD_DAMAGED, file.string(),
           ": damaged or changed since it was made (its SHA-256 differs from the manifest's)");
  }
}

std::string Artifact::read(const std::string &name) const {
  std::string bytes = read_file(path(name), UINTMAX_MAX);
  if (sha256_hex(bytes) != manifest_.files.at(name))
    fail(DD_DAMAGED, path(name).string(), ": changed while it was opened");
  return bytes;
}

}  // namespace dashdeploy::detail
