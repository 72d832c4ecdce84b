// The signature of manifest.json, in minisign's format (https://jedisct1.github.io/minisign/): ed25519 by libcrypto.
#pragma once

#include <filesystem>
#include <string_view>

namespace dashdeploy::detail {

// Check folder/manifest.json.minisig: it must be this key's, of the manifest's text, with its trusted comment.
//
// public_key: the text of a minisign public key, as in RWQ..., or the name of a file that holds it.
// Throws Failure: DD_ARGUMENT for a key that is none, DD_NOT_FOUND without a signature, DD_DAMAGED for another one,
// DD_UNSUPPORTED where libcrypto has no ed25519 or BLAKE2b.
void check_signature(const std::filesystem::path &folder, std::string_view manifest, const char *public_key);

}  // namespace dashdeploy::detail
