// The C interface: arguments in, statuses and messages out, and no exception past this file.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>

#include "batcher.h"
#include "dashdeploy/dashdeploy.h"
#include "error.h"
#include "philox.h"
#include "sampler.h"

struct dd_model {
  dashdeploy::detail::Sampler sampler;
  const int64_t max_waiting;
  std::once_flag submitted;
  std::unique_ptr<dashdeploy::detail::Batcher> batcher;  // made by the first dd_submit
};

struct dd_ticket {
  std::shared_ptr<dashdeploy::detail::Ticket> ticket;
};

namespace {

using dashdeploy::detail::fail;
using dashdeploy::detail::Failure;

// Length of the UTF-8 sequence that begins at text, 0 where there is no valid one.
std::size_t sequence(const unsigned char *text, std::size_t left) {
  const unsigned char first = text[0];
  const std::size_t length = first < 0x80         ? 1
                             : (first >> 5) == 6  ? 2
                             : (first >> 4) == 14 ? 3
                             : (first >> 3) == 30 ? 4
                                                  : 0;
  if (length == 0 || length > left || first == 0xC0 || first == 0xC1 || first > 0xF4) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((text[i] >> 6) != 2) return 0;
  return length;
}

// One line of valid UTF-8 that fits: control characters become blanks, other bytes question marks.
void write(dd_message *message, const char *text) {
  if (message == nullptr) return;
  std::size_t at = 0;
  const std::size_t size = std::strlen(text);
  for (std::size_t i = 0; i < size;) {
    const auto *here = reinterpret_cast<const unsigned char *>(text + i);
    const std::size_t length = std::max<std::size_t>(sequence(here, size - i), 1);
    if (at + length >= sizeof message->text) break;
    if (sequence(here, size - i) == 0) {
      message->text[at] = '?';
    } else if (*here < 0x20 || *here == 0x7F) {
      message->text[at] = ' ';
    } else {
      std::memcpy(message->text + at, text + i, length);
    }
    at += length;
    i += length;
  }
  message->text[at] = '\0';
}

template <typename Call>
dd_status guarded(dd_message *message, const Call &call) noexcept {
  try {
    write(message, "");
    call();
    return DD_OK;
  } catch (const Failure &error) {
    write(message, error.what());
    return error.status;
  } catch (const std::bad_alloc &) {
    write(message, "not enough memory");
    return DD_MEMORY;
  } catch (const std::exception &error) {
    write(message, error.what());
    return DD_INTERNAL;
  } catch (...) {
    write(message, "an unknown error");
    return DD_INTERNAL;
  }
}

// The caller's struct as this version knows it: fields that an older caller does not have are zero.
template <typename Struct>
Struct known(const Struct *given, const char *name) {
  if (given == nullptr) fail(DD_ARGUMENT, name, " is NULL");
  if (given->size < sizeof(std::size_t) || given->size > 4096)
    fail(DD_ARGUMENT, name, ".size is not set: expected sizeof(dd_", name, ")");
  Struct made{};
  std::memcpy(&made, given, std::min(given->size, sizeof made));
  return made;
}

void need(const void *pointer, const char *name) {
  if (pointer == nullptr) fail(DD_ARGUMENT, name, " is NULL");
}

dd_request asked(const dd_request *request) {
  dd_request made = known(request, "request");
  if (request->size <= offsetof(dd_request, latents)) made.latents = 1;  // its caller knows no other shape
  if (request->size <= offsetof(dd_request, preview)) made.preview_every = 0;  // an earlier version's padding
  return made;
}

}  // namespace

dd_status dd_open(const char *folder, const dd_open_options *options, dd_model **model, dd_message *message) {
  return guarded(message, [&] {
    need(model, "model");
    *model = nullptr;
    need(folder, "folder");
    dd_open_options chosen{};
    if (options != nullptr) chosen = known(options, "open_options");
    if (chosen.max_waiting < 0) fail(DD_ARGUMENT, "max_waiting is ", chosen.max_waiting, "; expected 0 or more");
    *model = new dd_model{{std::filesystem::path(folder), chosen}, chosen.max_waiting, {}, nullptr};
  });
}

void dd_close(dd_model *model) {
  if (model != nullptr && model->batcher && model->batcher->is_here()) return;  // it would wait for this thread
  delete model;
}

dd_status dd_get_info(const dd_model *model, dd_info *info, dd_message *message) {
  return guarded(message, [&] {
    need(model, "model");
    const std::size_t size = known(info, "info").size;
    const auto &manifest = model->sampler.manifest();
    dd_info filled{};
    filled.size = size;
    filled.name = manifest.name.c_str();
    filled.backend = manifest.backend.c_str();
    filled.precision = manifest.precision.c_str();
    filled.channels = manifest.channels;
    filled.height = manifest.height;
    filled.width = manifest.width;
    filled.num_classes = manifest.num_classes;
    filled.num_train_timesteps = manifest.num_train_timesteps;
    filled.num_inference_steps = static_cast<int64_t>(manifest.sampling.timesteps.size());
    filled.max_batch = model->sampler.max_batch();
    filled.parameters = manifest.parameters;
    filled.solver = manifest.sampling.consistency ? "consistency" : "ddim";
    filled.latents = manifest.latents ? 1 : 0;
    filled.decodes = manifest.decoder ? 1 : 0;
    const bool decodes = manifest.decoder.has_value();
    filled.image_channels = decodes ? manifest.decoder->channels : manifest.channels;
    filled.image_height = decodes ? manifest.decoder->height : manifest.height;
    filled.image_width = decodes ? manifest.decoder->width : manifest.width;
    std::memcpy(info, &filled, std::min(size, sizeof filled));
  });
}

const char *dd_class_name(const dd_model *model, int64_t label) {
  if (model == nullptr || label < 0 || label >= model->sampler.manifest().num_classes) return nullptr;
  return model->sampler.manifest().classes[static_cast<std::size_t>(label)].c_str();
}

dd_status dd_sample(dd_model *model, const dd_request *request, float *images, dd_message *message) {
  return guarded(message, [&] {
    need(model, "model");
    model->sampler.sample(asked(request), images);
  });
}

dd_status dd_submit(dd_model *model, const dd_request *request, float *images, dd_ticket **ticket,
                    dd_message *message) {
  return guarded(message, [&] {
    need(ticket, "ticket");
    *ticket = nullptr;
    need(model, "model");
    const dd_request wanted = asked(request);
    std::call_once(model->submitted, [&] {
      model->batcher = std::make_unique<dashdeploy::detail::Batcher>(model->sampler, model->max_waiting);
    });
    auto made = std::make_unique<dd_ticket>();
    made->ticket = model->batcher->submit(wanted, images);
    *ticket = made.release();
  });
}

dd_status dd_wait(dd_ticket *ticket, int64_t timeout_ms, int32_t *ended, dd_message *message) {
  bool over = false;
  const dd_status status = guarded(message, [&] {
    need(ticket, "ticket");
    if (ended == nullptr && timeout_ms >= 0) fail(DD_ARGUMENT, "ended is NULL, and timeout_ms is not below 0");
    if (timeout_ms != 0 && ticket->ticket->is_here())
      fail(DD_ARGUMENT, "dd_wait in a callback of dd_submit: the thread that it would wait for is this one");
    over = true;  // by an error as well
    over = ticket->ticket->wait(timeout_ms);
  });
  if (ended != nullptr) *ended = over ? 1 : 0;
  if (over) delete ticket;
  return status;
}

void dd_cancel(dd_ticket *ticket) {
  if (ticket != nullptr) ticket->ticket->cancel();
}

dd_status dd_step(dd_model *model, int64_t count, float *x, const int64_t *t, const int64_t *t_prev,
                  const int64_t *labels, const float *w, dd_message *message) {
  return guarded(message, [&] {
    need(model, "model");
    model->sampler.step(count, x, t, t_prev, labels, w);
  });
}

dd_status dd_decode(dd_model *model, int64_t count, const float *latents, float *images, dd_message *message) {
  return guarded(message, [&] {
    need(model, "model");
    model->sampler.decode(count, latents, images);
  });
}

dd_status dd_plan(const dd_model *model, int32_t steps, const dd_guidance *guidance, int64_t *t, int64_t *t_prev,
                  float *w, dd_message *message) {
  return guarded(message, [&] {
    need(model, "model");
    need(t, "t");
    need(t_prev, "t_prev");
    need(w, "w");
    const dd_guidance asked = guidance == nullptr ? dd_guidance{} : *guidance;
    const auto made = dashdeploy::detail::plan(model->sampler.manifest(), steps, asked);
    std::copy(made.t.begin(), made.t.end(), t);
    std::copy(made.t_prev.begin(), made.t_prev.end(), t_prev);
    std::copy(made.w.begin(), made.w.end(), w);
  });
}

dd_status dd_noise(uint64_t seed, uint64_t first, int64_t count, int64_t image_size, float *noise,
                   dd_message *message) {
  return dd_noises(seed, first, count, 1, image_size, noise, message);
}

dd_status dd_noises(uint64_t seed, uint64_t first, int64_t count, int32_t steps, int64_t image_size, float *noise,
                    dd_message *message) {
  return guarded(message, [&] {
    need(noise, "noise");
    if (count < 0 || image_size < 1) fail(DD_ARGUMENT, "count is ", count, " and image_size ", image_size);
    if (steps < 1) fail(DD_ARGUMENT, "steps is ", steps, "; expected 1 or more");
    for (int64_t i = 0; i < count * steps; ++i)
      dashdeploy::detail::normal(seed, first + static_cast<uint64_t>(i / steps), static_cast<uint32_t>(i % steps),
                                 image_size, noise + i * image_size);
  });
}

const char *dd_status_name(dd_status status) {
  switch (status) {
    case DD_OK:
      return "ok";
    case DD_ARGUMENT:
      return "invalid argument";
    case DD_NOT_FOUND:
      return "not found";
    case DD_DAMAGED:
      return "damaged";
    case DD_UNSUPPORTED:
      return "unsupported";
    case DD_BACKEND:
      return "backend error";
    case DD_MEMORY:
      return "out of memory";
    case DD_CANCELLED:
      return "cancelled";
    case DD_INTERNAL:
      return "internal error";
    case DD_NOT_FINITE:
      return "not finite";
    case DD_BUSY:
      return "busy";
    case DD_DEADLINE:
      return "deadline passed";
  }
  return "unknown status";
}

const char *dd_version(void) { return DD_VERSION; }

const char *dd_backends(void) { return DASHDEPLOY_BACKEND_LIST; }
