// The C interface for C++17: a model closes itself, and errors are exceptions.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dashdeploy/dashdeploy.h"

namespace dashdeploy {

// A status other than DD_OK that a call of the C interface returned.
class Error : public std::runtime_error {
 public:
  Error(dd_status status, const std::string &text)
      : std::runtime_error(std::string(dd_status_name(status)) + ": " + text), status_(status) {}
  dd_status status() const noexcept { return status_; }

 private:
  dd_status status_;
};

inline void check(dd_status status, const dd_message &message) {
  if (status != DD_OK) throw Error(status, message.text);
}

// A zeroed struct of the C interface that knows its size.
template <typename Struct>
Struct sized() {
  Struct made{};
  made.size = sizeof(Struct);
  return made;
}

struct Guidance : dd_guidance {
  Guidance() : dd_guidance{} {}  // the artifact's
  static Guidance constant(double w) { return Guidance(DD_GUIDANCE_CONSTANT, w, 0, 0, 0, 0); }
  static Guidance tag(double w_min, double w_max, double beta = 5.0) {
    return Guidance(DD_GUIDANCE_TAG, w_max, w_min, beta, 0, 0);
  }
  static Guidance interval(double w, double low, double high) {
    return Guidance(DD_GUIDANCE_INTERVAL, w, 0, 0, low, high);
  }
  // `scales` must outlive the request.
  static Guidance each_step(const std::vector<float> &scales) {
    Guidance made(DD_GUIDANCE_SCHEDULE, 0, 0, 0, 0, 0);
    made.schedule = scales.data();
    return made;
  }

 private:
  Guidance(dd_guidance_kind kind, double w, double w_min, double beta, double low, double high)
      : dd_guidance{kind, w, w_min, beta, low, high, nullptr} {}
};

// A request of Model::submit that is under way. One thread may wait for it while others cancel it. Its destructor
// cancels it, and waits until nothing writes its images. A callback may cancel a ticket, but not wait for it or destroy
// it.
class Ticket {
 public:
  Ticket(Ticket &&) noexcept = default;
  Ticket &operator=(Ticket &&other) noexcept {
    if (this != &other) {
      end();
      state_ = std::move(other.state_);
    }
    return *this;
  }
  ~Ticket() { end(); }

  // Whether it ended within so many milliseconds. Throws Error, at every call: it ended by one.
  bool wait_for(std::int64_t milliseconds) {
    return wait(std::clamp(milliseconds, std::int64_t{0}, std::int64_t{1} << 40));
  }

  // Its images, once, when they are done; as Model::sample gives them. Throws Error: it ended by one, or they were taken.
  std::vector<float> get() {
    wait(-1);
    if (std::exchange(state_->taken, true)) throw Error(DD_ARGUMENT, "the images of this ticket were taken before");
    return std::move(state_->images);
  }

  void cancel() noexcept {
    ++state_->cancelling;  // who waits gives the lock up
    const std::lock_guard<std::mutex> lock(state_->mutex);
    dd_cancel(state_->ticket);
    --state_->cancelling;
    state_->cancelled.notify_all();
  }

 private:
  friend class Model;
  static constexpr std::int64_t kSlice_ms = 10;  // for which a cancel waits at most
  struct State {
    std::mutex mutex;  // of the ticket: dd_cancel may not come beside the dd_wait that ends it
    std::atomic<int> cancelling{0};
    std::condition_variable cancelled;
    dd_ticket *ticket = nullptr;  // until it has ended, with this status
    dd_status status = DD_OK;
    dd_message message{};
    bool taken = false;
    std::vector<float> images;
    std::function<bool(std::int64_t, std::int64_t)> on_step;
  };

  explicit Ticket(std::unique_ptr<State> state) : state_(std::move(state)) {}

  bool wait(std::int64_t milliseconds) {
    using Clock = std::chrono::steady_clock;
    State &state = *state_;
    const auto until = Clock::now() + std::chrono::milliseconds(std::max<std::int64_t>(milliseconds, 0));
    std::unique_lock<std::mutex> lock(state.mutex);
    while (true) {
      state.cancelled.wait(lock, [&] { return state.cancelling == 0; });
      if (state.ticket == nullptr) break;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      const std::int64_t slice = milliseconds < 0 ? kSlice_ms : std::clamp<std::int64_t>(left, 0, kSlice_ms);
      dd_message message;
      std::int32_t ended = 0;
      const dd_status status = dd_wait(state.ticket, slice, &ended, &message);
      if (ended != 0) {
        state.ticket = nullptr;
        state.status = status;
        state.message = message;
      } else {
        check(status, message);
        if (milliseconds >= 0 && Clock::now() >= until) return false;
      }
    }
    check(state.status, state.message);
    return true;
  }

  void end() noexcept {
    if (!state_ || state_->ticket == nullptr) return;
    dd_cancel(state_->ticket);
    std::int32_t ended = 0;
    dd_wait(state_->ticket, -1, &ended, nullptr);
    if (ended == 0) return static_cast<void>(state_.release());  // in a callback: what is still written stays
    state_->ticket = nullptr;
  }

  std::unique_ptr<State> state_;
};

class Model {
 public:
  // public_key: a minisign public key, or its file, that must have signed the artifact; "": none must.
  // max_waiting: images of `submit` that may wait, 0: any number.
  explicit Model(const std::string &folder, int threads = 0, int device = 0, int max_batch = 0,
                 const std::string &public_key = "", int max_waiting = 0) {
    auto options = sized<dd_open_options>();
    options.threads = threads;
    options.device = device;
    options.max_batch = max_batch;
    options.max_waiting = max_waiting;
    options.public_key = public_key.empty() ? nullptr : public_key.c_str();
    dd_model *opened = nullptr;
    dd_message message;
    check(dd_open(folder.c_str(), &options, &opened, &message), message);
    model_.reset(opened);
  }

  dd_info info() const {
    auto filled = sized<dd_info>();
    dd_message message;
    check(dd_get_info(model_.get(), &filled, &message), message);
    return filled;
  }

  // (C, H, W) of what `sample` gives; `noise_shape`: of noise and of x, which are latents where a decoder makes images.
  std::array<std::int64_t, 3> image_shape() const {
    const dd_info shape = info();
    return {shape.image_channels, shape.image_height, shape.image_width};
  }

  std::array<std::int64_t, 3> noise_shape() const {
    const dd_info shape = info();
    return {shape.channels, shape.height, shape.width};
  }

  std::size_t image_size() const { return product(image_shape()); }
  std::size_t noise_size() const { return product(noise_shape()); }

  // Images of `labels`, (labels.size(), C, H, W); see dashdeploy.h for their range. `on_step` gets the done and total
  // steps; false cancels.
  std::vector<float> sample(const std::vector<std::int64_t> &labels, std::uint64_t seed, Guidance guidance = {},
                            int steps = 0, const std::function<bool(std::int64_t, std::int64_t)> &on_step = nullptr) {
    std::vector<float> images(labels.size() * image_size());
    sample(request_of(labels, seed, guidance, steps, on_step), images.data());
    return images;
  }

  // The same, without waiting: the images of all tickets run in one batch, see dd_submit. `on_step` is called in a thread
  // of the library. deadline_ms: from now on, 0: none.
  Ticket submit(const std::vector<std::int64_t> &labels, std::uint64_t seed, Guidance guidance = {}, int steps = 0,
                std::function<bool(std::int64_t, std::int64_t)> on_step = nullptr, std::int64_t deadline_ms = 0) {
    auto state = std::make_unique<Ticket::State>();
    state->images.resize(labels.size() * image_size());
    state->on_step = std::move(on_step);
    dd_request request = request_of(labels, seed, guidance, steps, state->on_step);
    request.deadline_ms = deadline_ms;
    dd_message message;
    check(dd_submit(model_.get(), &request, state->images.data(), &state->ticket, &message), message);
    return Ticket(std::move(state));
  }

  void sample(const dd_request &request, float *images) {
    dd_message message;
    check(dd_sample(model_.get(), &request, images, &message), message);
  }

  void step(std::int64_t count, float *x, const std::int64_t *t, const std::int64_t *t_prev, const std::int64_t *labels,
            const float *w) {
    dd_message message;
    check(dd_step(model_.get(), count, x, t, t_prev, labels, w, &message), message);
  }

  // Images of latents (count, noise_shape()). Throws Error where the number of values is no multiple of noise_size().
  std::vector<float> decode(const std::vector<float> &latents) {
    const std::size_t size = noise_size(), count = latents.size() / size;
    if (latents.size() % size != 0)
      throw Error(DD_ARGUMENT, "latents: " + std::to_string(latents.size()) + " values are no whole number of latents of " +
                                   std::to_string(size) + " values each");
    std::vector<float> images(count * image_size());
    dd_message message;
    check(dd_decode(model_.get(), static_cast<std::int64_t>(count), latents.data(), images.data(), &message), message);
    return images;
  }

  dd_model *get() const noexcept { return model_.get(); }

 private:
  // `labels` and `on_step` have to outlive it.
  static dd_request request_of(const std::vector<std::int64_t> &labels, std::uint64_t seed, const Guidance &guidance,
                               int steps, const std::function<bool(std::int64_t, std::int64_t)> &on_step) {
    auto request = sized<dd_request>();
    request.count = static_cast<std::int64_t>(labels.size());
    request.labels = labels.data();
    request.seed = seed;
    request.guidance = guidance;
    request.steps = steps;
    if (on_step) {
      request.progress = [](void *user, std::int64_t done, std::int64_t total) noexcept {
        try {
          return (*static_cast<const std::function<bool(std::int64_t, std::int64_t)> *>(user))(done, total) ? 0 : 1;
        } catch (...) {
          return 1;
        }
      };
      request.user = const_cast<void *>(static_cast<const void *>(&on_step));
    }
    return request;
  }

  static std::size_t product(const std::array<std::int64_t, 3> &shape) {
    return static_cast<std::size_t>(shape[0] * shape[1] * shape[2]);
  }

  struct Close {
    void operator()(dd_model *model) const noexcept { dd_close(model); }
  };
  std::unique_ptr<dd_model, Close> model_;
};

}  // namespace dashdeploy
