/* dashdeploy: images from a class-conditional diffusion artifact (a folder that `dashdeploy export` wrote).
 *
 * Every call returns a status; with a dd_message, it also says what was wrong. No exception leaves the library, and it
 * has no global state. The caller owns all buffers. Several threads may use a model at the same time.
 * Images and noise are float32, (count, channels, height, width), C-contiguous. Images lie in [-1, 1] where the
 * manifest has clip_sample, as it has for pixels, and where a decoder makes them; latents have no fixed range. Structs
 * begin with their size, so that later versions may add fields: dd_request r = {0}; r.size = sizeof r;
 */
#ifndef DASHDEPLOY_H
#define DASHDEPLOY_H

#include <stddef.h>
#include <stdint.h>

#ifndef DD_API
#define DD_API __attribute__((visibility("default")))
#endif

#define DD_VERSION "1.0.0"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum dd_status {
  DD_OK = 0,
  DD_ARGUMENT = 1,    /* a value that this call cannot use */
  DD_NOT_FOUND = 2,   /* a folder or a file is missing or cannot be read */
  DD_DAMAGED = 3,     /* a file is not what the manifest vouches for, or the manifest makes no sense */
  DD_UNSUPPORTED = 4, /* another format, a backend or solver that this library lacks, an engine for another machine */
  DD_BACKEND = 5,     /* the inference library failed */
  DD_MEMORY = 6,
  DD_CANCELLED = 7,  /* the progress callback or dd_cancel asked for it, or the model was closed */
  DD_INTERNAL = 8,   /* a mistake in this library */
  DD_NOT_FINITE = 9, /* a step gave a value that is not a finite number */
  DD_BUSY = 10,      /* dd_submit: as many images wait as max_waiting allows */
  DD_DEADLINE = 11   /* dd_submit: the request's deadline passed */
} dd_status;

typedef struct dd_message {
  char text[1024]; /* UTF-8, one line; empty after DD_OK */
} dd_message;

typedef struct dd_model dd_model;

typedef struct dd_open_options {
  size_t size;
  int32_t threads;        /* CPU backends: threads to use; 0: all that this process may run on */
  int32_t device;         /* GPU backends: CUDA device */
  int32_t max_batch;      /* CPU backends: images in one call of the network at most; 0: 64 */
  const char *public_key; /* a minisign public key or its file, which must have signed manifest.json; NULL: no matter */
  int32_t max_waiting;    /* images of dd_submit that may wait for a place in the running batch; 0: any number */
  int32_t reserved;       /* 0 */
} dd_open_options;

typedef struct dd_info { /* strings live as long as the model */
  size_t size;
  const char *name, *backend, *precision; /* the deployment target; onnxruntime, openvino, tensorrt, tensorrt_rtx */
  int64_t channels, height, width; /* of noise and of x: of latents, where latents is 1 */
  int64_t num_classes, num_train_timesteps, num_inference_steps; /* the last: of the artifact's plan */
  int64_t max_batch;                                             /* images in one call of the network at most */
  int64_t parameters;
  const char *solver; /* ddim, or consistency: each step goes to a clean image, and fresh noise takes it to the next */
  int32_t latents;    /* 1: x is an autoencoder's latents, and no picture */
  int32_t decodes;    /* 1: the artifact has a decoder, and dd_sample gives images */
  int64_t image_channels, image_height, image_width; /* of what dd_sample writes */
} dd_info;

typedef enum dd_guidance_kind {
  DD_GUIDANCE_DEFAULT = 0, /* the artifact's */
  DD_GUIDANCE_CONSTANT,    /* w; 1 = off */
  DD_GUIDANCE_TAG,         /* from w_min at t = T to w at t = 0 by a sigmoid of slope beta (arXiv:2606.00798, Eq. 3) */
  DD_GUIDANCE_INTERVAL,    /* w where low <= t/T < high, off elsewhere (arXiv:2404.07724) */
  DD_GUIDANCE_SCHEDULE     /* schedule[i] at step i */
} dd_guidance_kind;

typedef struct dd_guidance {
  dd_guidance_kind kind;
  double w, w_min, beta, low, high;
  const float *schedule; /* (steps,) */
} dd_guidance;

/* Called in the thread that called dd_sample, after each step; done counts steps over all batches of the request.
 * A value other than 0 cancels. */
typedef int (*dd_progress)(void *user, int64_t done, int64_t total);

/* Called with what one image would be by now, its x_0 after so many of its steps: (image_channels, ...) as in images. */
typedef void (*dd_preview)(void *user, int64_t image, int64_t step, const float *x_0);

typedef struct dd_timing {    /* summed over the threads that worked, milliseconds */
  double loop_ms, backend_ms; /* whole loops; the part of them inside the inference library */
  int64_t steps;
} dd_timing;

typedef struct dd_request {
  size_t size;
  int64_t count;         /* images; more than max_batch run in parts */
  const int64_t *labels; /* (count,) in 0 ... num_classes - 1 */
  const float *noise;    /* (count, C, H, W), with the solver consistency (count, steps, C, H, W), or NULL: dd_noises */
  uint64_t seed, first_image;
  int32_t steps; /* 0: the artifact's */
  dd_guidance guidance;
  dd_progress progress; /* or NULL */
  void *user;
  dd_timing *timing; /* or NULL; of dd_sample only */
  int32_t latents;   /* 1: write the latents of an artifact that has a decoder */
  /* Of dd_submit only: */
  int32_t preview_every; /* steps between two calls of preview */
  dd_preview preview;    /* or NULL */
  int64_t deadline_ms;   /* from dd_submit on; 0: none */
} dd_request;

/* Open an artifact: check its manifest and every file against their SHA-256, and load what sampling needs. Names cannot
 * leave the folder; links may: what is hashed is what is loaded. options: NULL for the defaults. */
DD_API dd_status dd_open(const char *folder, const dd_open_options *options, dd_model **model, dd_message *message);
DD_API void dd_close(dd_model *model); /* NULL: nothing. No call on it may be under way; in its callbacks: nothing */

DD_API dd_status dd_get_info(const dd_model *model, dd_info *info, dd_message *message);
DD_API const char *dd_class_name(const dd_model *model, int64_t label); /* NULL: no such label */

/* Draw images by the artifact's solver; images: (count, image_channels, image_height, image_width), or with latents
 * (count, channels, height, width), undefined after an error. Noise and guidance determine them. A request whose size
 * ends before `latents` is an earlier version's, and gets latents. */
DD_API dd_status dd_sample(dd_model *model, const dd_request *request, float *images, dd_message *message);

/* The same for applications that draw a few images at a time from several threads: the images of all requests run in one
 * batch, whatever their numbers of steps. An image joins between two steps and leaves after its own last one; waiting
 * requests take turns, one image a turn. dd_submit returns at once; `images` must stay until dd_wait has ended the
 * ticket, and the request need not. More images than max_waiting are DD_ARGUMENT. Callbacks come from a thread of the
 * library, one at a time for each request; in them, dd_wait for a ticket of the same model is DD_ARGUMENT unless
 * timeout_ms is 0. */
typedef struct dd_ticket dd_ticket;
DD_API dd_status dd_submit(dd_model *model, const dd_request *request, float *images, dd_ticket **ticket,
                           dd_message *message);
/* Wait for a request, at most timeout_ms (below 0: as long as it takes). `*ended` 1: this was the request's status, and
 * the ticket is gone; 0: it is not, and with DD_OK it is still under way. Every ticket has to be waited for, also after
 * dd_close. No call on a ticket may come beside or after the dd_wait that ends it: where one thread waits and another
 * may cancel, wait with short times, and hold a lock of your own around each dd_wait and dd_cancel. */
DD_API dd_status dd_wait(dd_ticket *ticket, int64_t timeout_ms, int32_t *ended, dd_message *message);
DD_API void dd_cancel(dd_ticket *ticket); /* its places are free after the step under way; dd_wait: DD_CANCELLED */

/* One guided DDIM update in place, for applications that own the loop. x: (count, C, H, W); t, t_prev: (count,), where
 * t_prev = -1 means clean, as it must be with the solver consistency: before the next step the application takes that
 * to sqrt(alpha) x + sqrt(1 - alpha) noise, alpha being the cumulative product of 1 - beta at its t; w: (count,). */
DD_API dd_status dd_step(dd_model *model, int64_t count, float *x, const int64_t *t, const int64_t *t_prev,
                         const int64_t *labels, const float *w, dd_message *message);

/* The images of latents, for applications that own the loop; latents: (count, channels, height, width) as the last step
 * left them, images: (count, image_channels, image_height, image_width). */
DD_API dd_status dd_decode(dd_model *model, int64_t count, const float *latents, float *images, dd_message *message);

/* What dd_sample would do at each step: t, t_prev and w, (steps,) each. */
DD_API dd_status dd_plan(const dd_model *model, int32_t steps, const dd_guidance *guidance, int64_t *t, int64_t *t_prev,
                         float *w, dd_message *message);

/* Standard normal noise of images first ... first + count - 1, (count, image_size): Philox4x32-10 and Box-Muller. An
 * image's noise depends only on the seed and the image's number, and equals the Python package's. */
DD_API dd_status dd_noise(uint64_t seed, uint64_t first, int64_t count, int64_t image_size, float *noise,
                          dd_message *message);

/* The same for the solver consistency, (count, steps, image_size): the noise of each step, dd_noise's at the first. */
DD_API dd_status dd_noises(uint64_t seed, uint64_t first, int64_t count, int32_t steps, int64_t image_size,
                           float *noise, dd_message *message);

DD_API const char *dd_status_name(dd_status status);
DD_API const char *dd_version(void);
DD_API const char *dd_backends(void); /* built in, separated by commas */

#ifdef __cplusplus
}
#endif

#endif
