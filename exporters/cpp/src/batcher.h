// The requests of several threads in one running batch: images join it between two steps, and leave after their own
// last one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "sampler.h"
#include "ticket.h"

namespace dashdeploy::detail {

class Batcher {
 public:
  // max_waiting: images that may wait; 0: any number.
  Batcher(const Sampler &sampler, std::int64_t max_waiting);
  Batcher(const Batcher &) = delete;
  Batcher &operator=(const Batcher &) = delete;

  // Ends what is under way with DD_CANCELLED.
  ~Batcher();

  // Whether this thread is one of its workers, as it is in callbacks: it cannot wait for them to do anything.
  bool is_here() const { return Ticket::worker_of == this; }

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
  // 1, 2, 4 ... max_batch images: more would only make each image wait longer. Where a size does not run, those below
  // it count, and the loop is another one.
  std::int64_t measured_places(std::unique_ptr<Loop> &loop) const;

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
