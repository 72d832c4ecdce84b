// A walk through protobuf's wire format, down the fields of onnx.proto that lead to TensorProto.external_data.
#include "onnx_files.h"

#include <cstdint>
#include <map>

#include "error.h"

namespace dashdeploy::detail {
namespace {

enum class Kind { model, graph, node, attribute, function, training, sparse, tensor, external };

constexpr std::uint64_t kOpType = 4, kKey = 1, kValue = 2;  // of a node, and of an entry of external_data
constexpr int kDeepest = 64;

// Message -> field -> the message that the field holds.
const std::map<Kind, std::map<std::uint64_t, Kind>> &messages() {
  static const std::map<Kind, std::map<std::uint64_t, Kind>> held = {
      {Kind::model, {{7, Kind::graph}, {20, Kind::training}, {25, Kind::function}}},
      {Kind::graph, {{1, Kind::node}, {5, Kind::tensor}, {15, Kind::sparse}}},
      {Kind::node, {{5, Kind::attribute}}},
      {Kind::attribute,
       {{5, Kind::tensor},
        {6, Kind::graph},
        {10, Kind::tensor},
        {11, Kind::graph},
        {22, Kind::sparse},
        {23, Kind::sparse}}},
      {Kind::function, {{7, Kind::node}, {11, Kind::attribute}}},
      {Kind::training, {{1, Kind::graph}, {2, Kind::graph}}},
      {Kind::sparse, {{1, Kind::tensor}, {2, Kind::tensor}}},
      {Kind::tensor, {{13, Kind::external}}},
      {Kind::external, {}},
  };
  return held;
}

class Walk {
 public:
  explicit Walk(const std::string &source) : source_(source) {}

  void message(std::string_view bytes, Kind kind, int depth) {
    if (depth > kDeepest) refuse("it is nested too deeply");
    const auto &inner = messages().at(kind);
    std::string_view key, value;
    while (!bytes.empty()) {
      const std::uint64_t tag = number(bytes), field = tag >> 3;
      const auto wire = static_cast<int>(tag & 7);
      if (wire == 0) {
        number(bytes);
      } else if (wire == 1 || wire == 5) {
        take(bytes, wire == 1 ? 8 : 4);
      } else if (wire == 2) {
        const std::string_view part = take(bytes, number(bytes));
        const auto held = inner.find(field);
        if (held != inner.end()) message(part, held->second, depth + 1);
        if (kind == Kind::node && field == kOpType && part == "EPContext")
          refuse("it holds an EPContext node, code for one device");
        if (kind == Kind::external && field == kKey) key = part;
        if (kind == Kind::external && field == kValue) value = part;
      } else {
        refuse("its encoding is unknown");
      }
    }
    if (kind == Kind::external && key == "location") found.emplace(value);
  }

  std::set<std::string> found;

 private:
  [[noreturn]] void refuse(const char *why) const { fail(DD_DAMAGED, source_, ": not a whole ONNX model (", why, ")"); }

  std::string_view take(std::string_view &bytes, std::uint64_t size) const {
    if (size > bytes.size()) refuse("it ends too early");
    const std::string_view part = bytes.substr(0, static_cast<std::size_t>(size));
    bytes.remove_prefix(static_cast<std::size_t>(size));
    return part;
  }

  std::uint64_t number(std::string_view &bytes) const {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(bytes, 1).front());
      if (shift < 64) value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number is too long");
  }

  const std::string &source_;
};

}  // namespace

std::set<std::string> external_files(std::string_view model, const std::string &source) {
  Walk walk(source);
  walk.message(model, Kind::model, 0);
  return walk.found;
}

}  // namespace dashdeploy::detail
