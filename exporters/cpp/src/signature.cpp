// minisign's keys and signatures, as its page describes them: base64 of an algorithm, a key's number, and bytes.
#include "signature.h"

#include <openssl/evp.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "error.h"

namespace dashdeploy::detail {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kKey = 32, kNumber = 8, kSignature = 64, kAlgorithm = 2, kMost = 65536;
constexpr std::size_t kKeyText = 56;  // base64 of algorithm, number and key
constexpr std::string_view kUntrusted = "untrusted comment:", kTrusted = "trusted comment: ";

struct PublicKey {
  std::string number, key;
};

template <typename Handle>
using Owned = std::unique_ptr<Handle, void (*)(Handle *)>;

bool is_base64(const std::string &text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' || c == '/' ||
           c == '=';
  });
}

// Bytes of base64 text; empty: it is none.
std::string decoded(const std::string &text) {
  if (text.empty() || text.size() % 4 != 0 || !is_base64(text)) return "";
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char *>(bytes.data()),
                                   reinterpret_cast<const unsigned char *>(text.data()), static_cast<int>(text.size()));
  const auto padding = static_cast<std::size_t>(std::count(text.end() - 2, text.end(), '='));
  if (size < 0 || text.find('=') < text.size() - padding) return "";
  bytes.resize(static_cast<std::size_t>(size) - padding);
  return bytes;
}

std::vector<std::string> lines_of(const fs::path &path, dd_status status) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(status, path.string(), ": cannot be read");
  std::string text(kMost, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    if (!lines.back().empty() && lines.back().back() == '\r') lines.back().pop_back();
    begin = end + 1;
  }
  return lines;
}

PublicKey read_key(const std::string &given) {
  std::string text = given;
  if (text.size() != kKeyText || !is_base64(text)) {
    text.clear();
    for (const std::string &line : lines_of(given, DD_ARGUMENT))
      if (!line.empty()) text = line;
  }
  const std::string bytes = decoded(text);
  if (bytes.size() != kAlgorithm + kNumber + kKey || bytes.compare(0, kAlgorithm, "Ed") != 0)
    fail(DD_ARGUMENT, given.substr(0, 200), ": not a minisign public key: expected its file, or 56 characters RW...");
  return {bytes.substr(kAlgorithm, kNumber), bytes.substr(kAlgorithm + kNumber)};
}

std::string shown(const std::string &number) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string text;
  for (auto byte = number.rbegin(); byte != number.rend(); ++byte) {
    text += digits[static_cast<unsigned char>(*byte) >> 4];
    text += digits[static_cast<unsigned char>(*byte) & 15];
  }
  return text;
}

std::string blake2b(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_blake2b512(), nullptr) != 1)
    fail(DD_UNSUPPORTED, "a public key is given, and this libcrypto has no BLAKE2b, which signatures need");
  return {reinterpret_cast<const char *>(digest), size};
}

bool is_signed(const std::string &key, std::string_view signature, std::string_view message) {
  const auto bytes = [](std::string_view text) { return reinterpret_cast<const unsigned char *>(text.data()); };
  const Owned<EVP_PKEY> made(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes(key), key.size()),
                             EVP_PKEY_free);
  const Owned<EVP_MD_CTX> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!made || !context || EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, made.get()) != 1)
    fail(DD_UNSUPPORTED, "a public key is given, and this libcrypto has no ed25519, which signatures need");
  return EVP_DigestVerify(context.get(), bytes(signature), signature.size(), bytes(message), message.size()) == 1;
}

}  // namespace

void check_signature(const fs::path &folder, std::string_view manifest, const char *public_key) {
  const PublicKey key = read_key(public_key);
  const fs::path path = folder / "manifest.json.minisig";
  std::error_code error;
  if (!fs::is_regular_file(path, error))
    fail(DD_NOT_FOUND, path.string(), ": missing, and with a public key only what is signed is opened");
  const std::vector<std::string> lines = lines_of(path, DD_NOT_FOUND);
  const bool four = lines.size() >= 4 && lines[0].rfind(kUntrusted, 0) == 0 && lines[2].rfind(kTrusted, 0) == 0;
  const std::string inner = four ? decoded(lines[1]) : "", outer = four ? decoded(lines[3]) : "";
  const std::string algorithm = inner.substr(0, kAlgorithm);
  if (inner.size() != kAlgorithm + kNumber + kSignature || outer.size() != kSignature ||
      (algorithm != "ED" && algorithm != "Ed"))
    fail(DD_DAMAGED, path.string(), ": not a signature of minisign");
  const std::string number = inner.substr(kAlgorithm, kNumber), signature = inner.substr(kAlgorithm + kNumber);
  if (number != key.number)
    fail(DD_DAMAGED, path.string(), ": signed by the key ", shown(number), ", and the public key given is ",
         shown(key.number));
  // "ED": of the text's BLAKE2b-512; "Ed", of older programs: of the text.
  if (!is_signed(key.key, signature, algorithm == "ED" ? blake2b(manifest) : std::string(manifest)))
    fail(DD_DAMAGED, path.string(),
         ": not this key's signature of manifest.json: one of the two was changed, or made anew");
  if (!is_signed(key.key, outer, signature + lines[2].substr(kTrusted.size())))
    fail(DD_DAMAGED, path.string(), ": its trusted comment was changed since it was signed");
}

}  // namespace dashdeploy::detail
