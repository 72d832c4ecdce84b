// Counts what the library's own code allocates while a warm handle draws: operator new is replaced, and a call counts
// where its caller lies in libdashdeploy and a loop is under way. Prints the count.
#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "dashdeploy/dashdeploy.hpp"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> counted{0}, elsewhere{0};

void *allocate(std::size_t size, void *caller) {
  if (counting) {
    Dl_info info{};
    const bool ours = dladdr(caller, &info) != 0 && info.dli_fname != nullptr &&
                      std::strstr(info.dli_fname, "libdashdeploy") != nullptr;
    ++(ours ? counted : elsewhere);
  }
  if (void *memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

int watch(void *, std::int64_t done, std::int64_t total) {
  counting = done + 1 < total;  // from the end of the first step to the end of the last but one
  return 0;
}

}  // namespace

void *operator new(std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

int main(int, char **values) {
  dashdeploy::Model model(values[1], /*threads=*/1);
  const std::vector<std::int64_t> labels = {1, 2, 3};
  std::vector<float> images(labels.size() * model.image_size());
  auto request = dashdeploy::sized<dd_request>();
  request.count = 3;
  request.labels = labels.data();
  request.steps = 50;
  request.guidance = dashdeploy::Guidance::interval(3, 0.2, 0.8);
  model.sample(request, images.data());
  counting = true;
  ::operator delete(::operator new(8));  // the counter sees what is allocated here
  const bool works = elsewhere == 1;
  request.progress = watch;
  counting = false;
  model.sample(request, images.data());
  counting = false;
  std::printf("%s %ld\n", works ? "counted" : "broken", counted.load());
}
