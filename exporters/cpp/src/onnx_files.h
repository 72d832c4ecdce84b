// What files an ONNX model names, read from its bytes: ONNX Runtime would open them without a check.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace dashdeploy::detail {

// The files that a model says its tensors lie in, wherever in it they are; `source` is what messages call it.
//
// Throws Failure(DD_DAMAGED): not a whole model, or one that holds code for one device (an EPContext node).
std::set<std::string> external_files(std::string_view model, const std::string &source);

}  // namespace dashdeploy::detail
