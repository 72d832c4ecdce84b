// Waiting for a request, and how it ends.
#include "ticket.h"

#include <algorithm>

#include "error.h"

namespace dashdeploy::detail {

thread_local const Batcher *Ticket::worker_of = nullptr;

bool Ticket::wait(std::int64_t timeout_ms) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto ended = [this] { return ended_; };
  if (timeout_ms < 0)
    changed_.wait(lock, ended);
  else if (!changed_.wait_for(lock, std::chrono::milliseconds(std::min<std::int64_t>(timeout_ms, 1LL << 40)), ended))
    return false;
  if (status_ != DD_OK) throw Failure(status_, text_);
  return true;
}

void Ticket::fail(dd_status status, const std::string &text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failed_) return;
  status_ = status;
  text_ = text;
  failed_ = true;
}

void Ticket::end() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

}  // namespace dashdeploy::detail
