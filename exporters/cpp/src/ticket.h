// A request of dd_submit: what was asked, how far it is, and how it ended.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "schedule.h"

namespace dashdeploy::detail {

class Batcher;

// A request under way. It outlives the batcher, so that it can be waited for after the model is closed.
class Ticket {
 public:
  // The batcher whose worker this thread is; NULL: of none.
  static thread_local const Batcher *worker_of;

  // Throws Failure, whatever ended the request; false: it has not ended within the time (below 0: as long as it takes).
  bool wait(std::int64_t timeout_ms);

  void cancel() { cancelled_ = true; }

  // Whether the worker that would have to end it is this thread, in a callback.
  bool is_here() const { return worker_of != nullptr && worker_of == batcher_; }

 private:
  friend class Batcher;
  using Clock = std::chrono::steady_clock;

  // Why the request cannot go on: the first reason stays.
  void fail(dd_status status, const std::string &text);
  bool over() const { return failed_; }
  void end();

  const Batcher *batcher_ = nullptr;

  // What was asked, copied.
  Plan plan_;
  std::vector<std::int64_t> labels_;
  std::vector<float> noise_;  // empty: of the seed
  std::uint64_t seed_ = 0, first_image_ = 0;
  float *images_ = nullptr;
  bool decodes_ = false;
  dd_progress progress_ = nullptr;
  dd_preview preview_ = nullptr;
  void *user_ = nullptr;
  std::int64_t preview_every_ = 0, deadline_ms_ = 0;
  Clock::time_point since_ = Clock::now();

  // Under the batcher's mutex: images that have joined the batch, those of them that have left it, and whether the
  // ticket stands in the queue.
  std::int64_t joined_ = 0, left_ = 0;
  bool queued_ = true;

  std::atomic<bool> cancelled_{false}, failed_{false};
  std::mutex calling_;          // held around callbacks
  std::int64_t steps_done_ = 0;  // under calling_

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  dd_status status_ = DD_OK;
  std::string text_;
};

}  // namespace dashdeploy::detail
