/* dlopen without RTLD_DEEPBIND: AddressSanitizer ends a program in which a library asks for it, as OpenVINO's does. */
#define _GNU_SOURCE
#include <dlfcn.h>

void *dlopen(const char *name, int flags) {
  void *(*next)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
  return next(name, flags & ~RTLD_DEEPBIND);
}
