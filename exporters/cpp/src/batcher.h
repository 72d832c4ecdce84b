// The requests of several threads in one running batch: images join it between two steps, and leave after their own
// last one.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sampler.h"

namespace dashdeploy::detail {

// A request under way. It outlives the batcher, so that it can be waited for after the model is closed.
class Ticket {
 public:
  // Throws Failure, whatever ended the request; false: it has not ended within the time (below 0: as long as it takes).
  bool wait(std::int64_t timeout_ms);

  void cancel() { cancelled_ = true; }

 private:
  friend class Batcher;
  using Clock = std::chrono::steady_clock;

  // Why the request cannot go on: the first reason stays.
  void fail(dd_status status, const std::string &text);
  bool over() const { return failed_; }
  void end();

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

class Batcher {
 public:
  // max_waiting: images that may wait; 0: any number.
  Batcher(const Sampler &sampler, std::int64_t max_waiting);
  Batcher(const Batcher &) = delete;
  Batcher &operator=(const Batcher &) = delete;

  // Ends what is under way with DD_CANCELLED.
  ~Batcher();

  // Throws Failure: DD_ARGUMENT, or DD_BUSY.
  std::shared_ptr<Ticket> submit(const dd_request &request, float *images);

 private:
  struct Place;
  class Batch;

  void work();

  // Fail what was cancelled or has waited too long, and take it out of the queue and the batch.
  void drop(std::vector<Place> &places);

  // Images of the queue into free places: its requests take turns, one image a turn, so that a request of many images
  // does not hold up those of one.
  void admit(std::vector<Place> &places);

  // Take out of the batch what has ended. The caller holds mutex_.
  void remove(std::vector<Place> &places);

  static void fail_all(std::vector<Place> &places, dd_status status, const std::string &text);

  // The fewest places with which a step makes nearly as many images a second as it can, by the times of steps of
  // 1, 2, 4 ... max_batch images: more would only make each image wait longer.
  std::int64_t measured_places(Loop &loop) const;

  const Sampler &sampler_;
  const std::int64_t max_waiting_;
  const bool narrow_;  // each worker has a loop of one thread, and there are as many as lanes
  std::once_flag measured_;
  std::atomic<std::int64_t> places_{1};  // of each worker

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<Ticket>> queue_;  // with images that have not joined
  std::int64_t waiting_ = 0;                   // such images
  bool closing_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace dashdeploy::detail
