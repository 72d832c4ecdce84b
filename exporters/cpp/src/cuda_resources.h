// Memory, streams, events and graphs of CUDA that release themselves, and its statuses as Failures.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <type_traits>

#include "error.h"

namespace dashdeploy::detail {

inline void check(cudaError_t status, const char *doing) {
  if (status != cudaSuccess) fail(DD_BACKEND, "CUDA, ", doing, ": ", cudaGetErrorString(status));
}

struct FreeDevice {
  void operator()(void *memory) const noexcept { cudaFree(memory); }
};
struct FreeHost {
  void operator()(void *memory) const noexcept { cudaFreeHost(memory); }
};
using Device = std::unique_ptr<void, FreeDevice>;
using Pinned = std::unique_ptr<void, FreeHost>;

inline Device on_device(std::size_t bytes) {
  void *memory = nullptr;
  check(cudaMalloc(&memory, bytes), "memory on the GPU");
  return Device(memory);
}

inline Pinned pinned(std::size_t bytes) {
  void *memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "pinned memory");
  return Pinned(memory);
}

struct DestroyStream {
  void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
};
struct DestroyEvent {
  void operator()(cudaEvent_t event) const noexcept { cudaEventDestroy(event); }
};
struct DestroyGraph {
  void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;
using StepGraph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

}  // namespace dashdeploy::detail
