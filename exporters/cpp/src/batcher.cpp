// The running batch. One worker for each lane of the backend; each step of a worker is one call of the step graph.
#include "batcher.h"

#include <algorithm>

#include "error.h"
#include "philox.h"

namespace dashdeploy::detail {
namespace {

constexpr double kMeasuring_ms = 500;  // in all
constexpr double kNearlyBest = 0.95;   // of the images that a step makes in a second

double milliseconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

// One image in the batch.
struct Batcher::Place {
  std::shared_ptr<Ticket> ticket;
  std::int64_t image = 0;  // in its request
  std::size_t step = 0;    // the next one
  std::vector<float> x;

  bool last() const { return step == ticket->plan_.steps(); }

  // The noise of one of its steps, 0 being the start: the request's own, or the seed's.
  void noise(std::uint32_t of_step, const Manifest &manifest, float *out) const {
    const std::int64_t size = manifest.image_size();
    const std::int64_t noises = manifest.noises(static_cast<std::int64_t>(ticket->plan_.steps()));
    if (ticket->noise_.empty())
      normal(ticket->seed_, ticket->first_image_ + static_cast<std::uint64_t>(image), of_step, size, out);
    else
      std::copy_n(ticket->noise_.begin() + (image * noises + of_step) * size, size, out);
  }
};

// A worker's loop with the buffers of a step.
class Batcher::Batch {
 public:
  Batch(const Batcher &owner, std::unique_ptr<Loop> loop)
      : sampler_(owner.sampler_), manifest_(sampler_.manifest()), size_(manifest_.image_size()), loop_(std::move(loop)) {}

  // Take every place one step further. A place whose image is not finite fails its own request. The first place is
  // repeated where the engines take no batch so small.
  void step(std::vector<Place> &places) {
    const std::int64_t count = std::max(static_cast<std::int64_t>(places.size()), sampler_.min_batch());
    x_.resize(static_cast<std::size_t>(count * size_));
    t_.resize(static_cast<std::size_t>(count));
    t_prev_ = labels_ = t_;
    w_.resize(t_.size());
    for (std::size_t i = 0; i < t_.size(); ++i) {
      const Place &place = places[i < places.size() ? i : 0];
      const Ticket &ticket = *place.ticket;
      std::copy(place.x.begin(), place.x.end(), x_.begin() + static_cast<std::ptrdiff_t>(i) * size_);
      t_[i] = ticket.plan_.t[place.step];
      t_prev_[i] = ticket.plan_.t_prev[place.step];
      w_[i] = ticket.plan_.w[place.step];
      labels_[i] = ticket.labels_[static_cast<std::size_t>(place.image)];
    }
    loop_->load(x_.data(), labels_.data(), count);
    loop_->step(t_.data(), t_prev_.data(), w_.data());
    loop_->store(x_.data());
    for (std::size_t i = 0; i < places.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      const float *const now = x_.data() + row * size_;
      if (!loop_->finite(row) || !all_finite(now, size_)) not_finite(places[i]);
      moved(places[i], now);
    }
  }

  // Write the image of a place that has made its last step.
  void finish(const Place &place) {
    Ticket &ticket = *place.ticket;
    const std::int64_t size = ticket.decodes_ ? manifest_.decoder->image_size() : size_;
    float *const image = ticket.images_ + place.image * size;
    if (ticket.decodes_)
      decode(ticket, place.x.data(), image);
    else
      std::copy(place.x.begin(), place.x.end(), image);
  }

 private:
  static void not_finite(const Place &place) {
    std::ostringstream text;
    text << "step " << place.step + 1 << " of " << place.ticket->plan_.steps() << " (t = "
         << place.ticket->plan_.t[place.step] << ", w = " << place.ticket->plan_.w[place.step] << ")" << kGave;
    place.ticket->fail(DD_NOT_FINITE, text.str());
  }

  // A place after a step: its callbacks, and the noise that the solver consistency goes on with.
  void moved(Place &place, const float *now) {
    Ticket &ticket = *place.ticket;
    if (ticket.over()) return;
    const auto done = static_cast<std::int64_t>(place.step) + 1;
    if (ticket.preview_ != nullptr && done % ticket.preview_every_ == 0) preview(place, now);
    std::copy_n(now, size_, place.x.begin());
    ++place.step;
    if (manifest_.sampling.consistency && !place.last()) renoise_place(place);
    if (ticket.progress_ == nullptr) return;
    const std::lock_guard<std::mutex> lock(ticket.calling_);
    const auto total = static_cast<std::int64_t>(ticket.plan_.steps() * ticket.labels_.size());
    if (ticket.progress_(ticket.user_, ++ticket.steps_done_, total) != 0 && ticket.steps_done_ < total)
      ticket.fail(DD_CANCELLED, "cancelled by the progress callback");
  }

  void preview(const Place &place, const float *now) {
    Ticket &ticket = *place.ticket;
    const auto at = [&](std::int64_t t) { return sampler_.alphas_[static_cast<std::size_t>(t + 1)]; };
    clean_.resize(static_cast<std::size_t>(size_));
    predicted_clean(clean_.data(), place.x.data(), now, size_, at(ticket.plan_.t[place.step]),
                    at(ticket.plan_.t_prev[place.step]), manifest_.sampling.clip_sample);
    const float *shown = clean_.data();
    if (ticket.decodes_) {
      image_.resize(static_cast<std::size_t>(manifest_.decoder->image_size()));
      if (!decode(ticket, clean_.data(), image_.data())) return;
      shown = image_.data();
    }
    const std::lock_guard<std::mutex> lock(ticket.calling_);
    ticket.preview_(ticket.user_, place.image, static_cast<std::int64_t>(place.step) + 1, shown);
  }

  // An image that is not finite fails its own request.
  bool decode(Ticket &ticket, const float *latents, float *image) {
    try {
      sampler_.decode(*loop_, 1, latents, image);
    } catch (const Failure &error) {
      if (error.status != DD_NOT_FINITE) throw;
      ticket.fail(error.status, error.what());
    }
    return !ticket.over();
  }

  void renoise_place(Place &place) {
    const Ticket &ticket = *place.ticket;
    noise_.resize(static_cast<std::size_t>(size_));
    place.noise(static_cast<std::uint32_t>(place.step), manifest_, noise_.data());
    renoise(place.x.data(), noise_.data(), size_, sampler_.alphas_[static_cast<std::size_t>(ticket.plan_.t[place.step] + 1)]);
  }

  const Sampler &sampler_;
  const Manifest &manifest_;
  const std::int64_t size_;
  std::unique_ptr<Loop> loop_;
  std::vector<float> x_, w_, clean_, image_, noise_;
  std::vector<std::int64_t> t_, t_prev_, labels_;
};

void Batcher::fail_all(std::vector<Place> &places, dd_status status, const std::string &text) {
  for (Place &place : places) place.ticket->fail(status, text);
}

Batcher::Batcher(const Sampler &sampler, std::int64_t max_waiting)
    : sampler_(sampler),
      max_waiting_(max_waiting),
      narrow_(sampler.backend_->lanes() > 1 && sampler.manifest().host.small) {
  const int wanted = narrow_ ? sampler.backend_->lanes() : 1;
  workers_.reserve(static_cast<std::size_t>(wanted));
  try {
    for (int i = 0; i < wanted; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::exception &error) {  // the system gives no more threads: one worker is enough
    if (workers_.empty()) fail(DD_BACKEND, "no thread could be started: ", error.what());
  }
}

Batcher::~Batcher() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  ready_.notify_all();
  for (std::thread &worker : workers_) worker.join();
}

std::shared_ptr<Ticket> Batcher::submit(const dd_request &request, float *images) {
  const bool decodes = sampler_.backend_->has_decoder() && request.latents == 0;
  if ((request.preview == nullptr) != (request.preview_every == 0) || request.preview_every < 0)
    fail(DD_ARGUMENT, "preview needs both: a function, and preview_every of 1 or more");
  if (request.deadline_ms < 0) fail(DD_ARGUMENT, "deadline_ms is ", request.deadline_ms, "; expected 0 or more");
  if (images == nullptr) fail(DD_ARGUMENT, "images is NULL");
  if (request.timing != nullptr) fail(DD_ARGUMENT, "timing is of dd_sample; leave it NULL");
  const auto ticket = std::make_shared<Ticket>();
  ticket->plan_ = sampler_.checked_plan(request, decodes);
  if (max_waiting_ > 0 && request.count > max_waiting_)
    fail(DD_ARGUMENT, "count is ", request.count, ", and max_waiting ", max_waiting_,
         ": so many images can never wait. Submit fewer at a time, or open with a larger max_waiting");
  ticket->batcher_ = this;
  ticket->labels_.assign(request.labels, request.labels + request.count);
  if (request.noise != nullptr) {
    const auto noises = sampler_.manifest().noises(static_cast<std::int64_t>(ticket->plan_.steps()));
    ticket->noise_.assign(request.noise, request.noise + request.count * noises * sampler_.manifest().image_size());
  }
  ticket->seed_ = request.seed;
  ticket->first_image_ = request.first_image;
  ticket->images_ = images;
  ticket->decodes_ = decodes;
  ticket->progress_ = request.progress;
  ticket->preview_ = request.preview;
  ticket->preview_every_ = request.preview_every;
  ticket->user_ = request.user;
  ticket->deadline_ms_ = std::min<std::int64_t>(request.deadline_ms, 1LL << 40);  // in ns it has to fit as well
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (max_waiting_ > 0 && waiting_ + request.count > max_waiting_)
      fail(DD_BUSY, waiting_, " images wait, and ", request.count, " more are above max_waiting, ", max_waiting_,
           ". Try again later");
    waiting_ += request.count;
    queue_.push_back(ticket);
  }
  ready_.notify_all();
  return ticket;
}

void Batcher::work() {
  Ticket::worker_of = this;
  std::vector<Place> places;
  std::unique_ptr<Batch> batch;
  while (true) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      ready_.wait(lock, [&] { return closing_ || !queue_.empty() || !places.empty(); });
    }
    try {
      drop(places);
      admit(places);
      if (!places.empty() && !batch) {
        std::unique_ptr<Loop> loop = sampler_.backend_->loop(narrow_);
        std::call_once(measured_, [&] { places_ = measured_places(loop); });
        batch = std::make_unique<Batch>(*this, std::move(loop));
      }
      if (!places.empty()) batch->step(places);
      for (Place &place : places)
        if (!place.ticket->over() && place.last()) batch->finish(place);
    } catch (const Failure &error) {
      fail_all(places, error.status, error.what());
      batch.reset();  // an error may have left it unusable
    } catch (const std::bad_alloc &) {
      fail_all(places, DD_MEMORY, "not enough memory");
      batch.reset();
    } catch (const std::exception &error) {
      fail_all(places, DD_BACKEND, error.what());
      batch.reset();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    remove(places);
    if (closing_ && places.empty() && queue_.empty()) return;
  }
}

void Batcher::drop(std::vector<Place> &places) {
  const auto now = Ticket::Clock::now();
  const auto check = [&](Ticket &ticket) {
    if (closing_)
      ticket.fail(DD_CANCELLED, "the model was closed");
    else if (ticket.cancelled_)
      ticket.fail(DD_CANCELLED, "cancelled by dd_cancel");
    else if (ticket.deadline_ms_ > 0 && now - ticket.since_ > std::chrono::milliseconds(ticket.deadline_ms_))
      ticket.fail(DD_DEADLINE, "the deadline of " + std::to_string(ticket.deadline_ms_) + " ms passed, with " +
                                   std::to_string(ticket.joined_) + " of " + std::to_string(ticket.labels_.size()) +
                                   " images begun");
  };
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Place &place : places) check(*place.ticket);
  for (auto at = queue_.begin(); at != queue_.end();) {
    Ticket &ticket = **at;
    check(ticket);
    if (!ticket.over()) {
      ++at;
      continue;
    }
    waiting_ -= static_cast<std::int64_t>(ticket.labels_.size()) - ticket.joined_;
    ticket.queued_ = false;
    if (ticket.joined_ == ticket.left_) ticket.end();  // no image of it is in a batch
    at = queue_.erase(at);
  }
  remove(places);
}

void Batcher::admit(std::vector<Place> &places) {
  const std::size_t before = places.size();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!queue_.empty() && static_cast<std::int64_t>(places.size()) < places_) {
      const std::shared_ptr<Ticket> ticket = queue_.front();
      ticket->queued_ = ticket->joined_ + 1 < static_cast<std::int64_t>(ticket->labels_.size());
      if (ticket->queued_) queue_.push_back(ticket);
      places.push_back({ticket, ticket->joined_++, 0, {}});
      queue_.pop_front();
      --waiting_;
    }
  }
  for (std::size_t i = before; i < places.size(); ++i) {
    places[i].x.resize(static_cast<std::size_t>(sampler_.manifest().image_size()));
    places[i].noise(0, sampler_.manifest(), places[i].x.data());
  }
}

void Batcher::remove(std::vector<Place> &places) {
  const auto gone = [&](Place &place) {
    Ticket &ticket = *place.ticket;
    if (!ticket.over() && !place.last()) return false;
    if (++ticket.left_ == ticket.joined_ && !ticket.queued_) ticket.end();
    return true;
  };
  places.erase(std::remove_if(places.begin(), places.end(), gone), places.end());
}

std::int64_t Batcher::measured_places(std::unique_ptr<Loop> &loop) const {
  const Manifest &manifest = sampler_.manifest();
  const std::int64_t most = sampler_.max_batch(), size = manifest.image_size();
  const auto n = static_cast<std::size_t>(most);
  const std::vector<float> x(static_cast<std::size_t>(most * size)), w(n, manifest.sampling.guidance_scales.front());
  const std::vector<std::int64_t> t(n, manifest.sampling.timesteps.back()), t_prev(n, -1), labels(n, 0);
  std::vector<std::pair<std::int64_t, double>> speeds;  // (places, images that make a step in a millisecond)
  const auto since = std::chrono::steady_clock::now();
  double best = 0;
  std::vector<float> out(x.size());
  const auto step = [&](std::int64_t count) {
    const auto before = std::chrono::steady_clock::now();
    loop->load(x.data(), labels.data(), count);
    loop->step(t.data(), t_prev.data(), w.data());
    loop->store(out.data());  // a GPU's step has ended when it is back
    return milliseconds(std::chrono::steady_clock::now() - before);
  };
  for (std::int64_t count = sampler_.min_batch(); count <= most; count *= 2) {
    double times[3];
    try {
      step(count);  // memory and kernels of this size
      for (double &time : times) time = step(count);
    } catch (const std::exception &) {
      if (speeds.empty()) throw;
      loop.reset();
      loop = sampler_.backend_->loop(narrow_);
      break;
    }
    std::sort(std::begin(times), std::end(times));
    speeds.emplace_back(count, static_cast<double>(count) / std::max(times[1], 1e-6));
    best = std::max(best, speeds.back().second);
    if (milliseconds(std::chrono::steady_clock::now() - since) > kMeasuring_ms) break;
  }
  for (const auto &[count, speed] : speeds)
    if (speed >= kNearlyBest * best) return count;
  return sampler_.min_batch();
}

}  // namespace dashdeploy::detail
