// An artifact's folder: its manifest and its files, checked against their SHA-256 before anything is loaded.
#pragma once

#include <filesystem>
#include <string>

#include "manifest.h"

namespace dashdeploy::detail {

class Artifact {
 public:
  // Reads manifest.json, manifest.json.sha256 and every listed file; with a public key (see signature.h) also
  // manifest.json.minisig. Names cannot leave the folder, links may: content is what counts. Throws Failure.
  Artifact(const std::filesystem::path &folder, const char *public_key);

  const Manifest &manifest() const { return manifest_; }

  // The bytes of a listed file, checked again as they are read: a backend loads only what the manifest vouches for.
  std::string read(const std::string &name) const;

  std::filesystem::path path(const std::string &name) const { return folder_ / name; }

 private:
  std::filesystem::path folder_;
  Manifest manifest_;
};

}  // namespace dashdeploy::detail
