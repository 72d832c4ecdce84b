/* dlopen without RTLD_DEEPBIND: AddressSanitizer refuses to go on where a library asks for it, as OpenVINO's TBB does. */
#define _GNU_SOURCE
#include <dlfcn.h>

void *dlopen(const char *name, int flags) {
  void *(*next)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
  return next(name, flags & ~RTLD_DEEPBIND);
}
