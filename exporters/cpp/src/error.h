// Errors inside the library: a status of the C interface and a line of text.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "dashdeploy/dashdeploy.h"

namespace dashdeploy::detail {

class Failure : public std::runtime_error {
 public:
  Failure(dd_status status, const std::string &text) : std::runtime_error(text), status(status) {}
  dd_status status;
};

// Throw a Failure whose text is all parts in a row.
template <typename... Parts>
[[noreturn]] void fail(dd_status status, const Parts &...parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Failure(status, text.str());
}

}  // namespace dashdeploy::detail
