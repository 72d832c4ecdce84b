// Threads that wait for work: the parts of one call run on them and on the caller.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dashdeploy::detail {

class Pool {
 public:
  // Where the system gives fewer threads, those do: the caller takes the rest.
  explicit Pool(int threads) {
    threads_.reserve(static_cast<std::size_t>(std::max(threads, 0)));
    try {
      for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::exception &) {
    }
  }

  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    for (std::thread &thread : threads_) thread.join();
  }

  // Run job(0) ... job(count - 1), job(0) in the calling thread, and return when all have ended. Jobs may not throw.
  // Where every thread is busy with other calls, the caller runs its jobs itself.
  void run(int count, const std::function<void(int)> &job) {
    Call call{&job, 1, count, 0};
    if (count > 1) {
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        calls_.push_back(&call);
      }
      changed_.notify_all();
    }
    job(0);
    if (count == 1) return;
    std::unique_lock<std::mutex> lock(mutex_);
    while (take_from(call, lock)) {
    }
    changed_.wait(lock, [&] { return call.running == 0; });
  }

 private:
  struct Call {
    const std::function<void(int)> *job;
    int next, count, running;
  };

  // Run one job of `call`; false where none is left to begin. The last one to begin takes the call off the list.
  bool take_from(Call &call, std::unique_lock<std::mutex> &lock) {
    if (call.next == call.count) return false;
    const int index = call.next++;
    if (call.next == call.count)
      for (std::size_t i = 0; i < calls_.size(); ++i)
        if (calls_[i] == &call) {
          calls_.erase(calls_.begin() + static_cast<std::ptrdiff_t>(i));
          break;
        }
    ++call.running;
    lock.unlock();
    (*call.job)(index);
    lock.lock();
    --call.running;
    changed_.notify_all();
    return true;
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return closing_ || !calls_.empty(); });
      if (closing_) return;
      take_from(*calls_.front(), lock);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Call *> calls_;
  std::vector<std::thread> threads_;
  bool closing_ = false;
};

}  // namespace dashdeploy::detail
