// A JSON value with its place in the document: each getter checks type and range, and an error names the key.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace dashdeploy::detail {

constexpr std::int64_t kMostCount = std::int64_t{1} << 31;  // of anything that is counted

class JsonReader {
 public:
  using Json = nlohmann::json;

  // `value` and `source`, which is what messages call the document, must outlive the reader.
  JsonReader(const Json &value, std::string path, const std::string &source)
      : value_(value), path_(std::move(path)), source_(source) {}

  template <typename... Parts>
  [[noreturn]] void refuse(const Parts &...parts) const {
    refuse_as(DD_DAMAGED, parts...);
  }

  template <typename... Parts>
  [[noreturn]] void refuse_as(dd_status status, const Parts &...parts) const {
    fail(status, source_, ": ", path_.empty() ? std::string("the manifest") : path_, " ", parts...);
  }

  // Whether the key is there, with null or any other value.
  bool has(const char *key) const { return object().contains(key); }

  // The same for a key whose value may be null.
  bool has_value(const char *key) const { return has(key) && !value_[key].is_null(); }

  JsonReader at(const char *key) const {
    if (!has(key)) refuse("has no ", key);
    return JsonReader(value_[key], path_.empty() ? key : path_ + "." + key, source_);
  }

  void only(std::initializer_list<const char *> keys) const {
    for (const auto &[key, value] : entries()) {
      bool known = false;
      for (const char *name : keys) known = known || key == name;
      if (!known) value.refuse("is not known");
    }
  }

  std::vector<std::pair<std::string, JsonReader>> entries() const {
    std::vector<std::pair<std::string, JsonReader>> read;
    for (const auto &[key, value] : object().items())
      read.emplace_back(key, JsonReader(value, path_ + "." + key, source_));
    return read;
  }

  std::vector<JsonReader> items(std::int64_t least = 0, std::int64_t most = kMostCount) const {
    if (!value_.is_array()) refuse("must be a list");
    const auto count = static_cast<std::int64_t>(value_.size());
    if (count < least || count > most) refuse("has ", count, " values; expected ", least, " ... ", most);
    std::vector<JsonReader> read;
    read.reserve(value_.size());
    for (std::size_t i = 0; i < value_.size(); ++i)
      read.emplace_back(value_[i], path_ + "." + std::to_string(i), source_);
    return read;
  }

  std::int64_t integer(std::int64_t low, std::int64_t high) const {
    if (!value_.is_number_integer()) refuse("must be a whole number");
    const bool too_large = value_.is_number_unsigned() && value_.get<std::uint64_t>() > std::uint64_t{INT64_MAX};
    const std::int64_t number = too_large ? INT64_MAX : value_.get<std::int64_t>();
    if (too_large || number < low || number > high) refuse("must be in ", low, " ... ", high);
    return number;
  }

  double number(double low, double high) const {
    if (!value_.is_number()) refuse("must be a number");
    const auto number = value_.get<double>();
    if (!(number >= low && number <= high)) refuse("must be in ", low, " ... ", high);
    return number;
  }

  bool boolean() const {
    if (!value_.is_boolean()) refuse("must be true or false");
    return value_.get<bool>();
  }

  const std::string &text() const {
    if (!value_.is_string()) refuse("must be text");
    const auto &text = value_.get_ref<const std::string &>();
    if (text.size() > 4096 || text.find('\0') != std::string::npos) refuse("is not a line of text");
    return text;
  }

  const std::string &one_of(std::initializer_list<const char *> known, dd_status status = DD_DAMAGED) const {
    const std::string &name = text();
    std::string listed;
    for (const char *other : known) {
      if (name == other) return name;
      listed += (listed.empty() ? "" : ", ") + std::string(other);
    }
    refuse_as(status, "is '", name.substr(0, 60), "'; known: ", listed);
  }

  bool is_null() const { return value_.is_null(); }

  bool is_number() const { return value_.is_number(); }

 private:
  const Json &object() const {
    if (!value_.is_object()) refuse("must be an object");
    return value_;
  }

  const Json &value_;
  std::string path_;
  const std::string &source_;
};

}  // namespace dashdeploy::detail
