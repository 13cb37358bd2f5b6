// The emulator's side of csrc/cuda/simt.cuh: the same names, the same meaning, and a check of what
// hardware leaves undefined. Every operation carries its source location for the reports.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "machine.h"

#define DYN_SMEM(T, name) T* name = reinterpret_cast<T*>(::emu::current->block->dynamic)

namespace simt {

using emu::Location;
#define HERE Location where = Location::current()

// ---- launches ------------------------------------------------------------------------------

cudaError_t launch_emulated(const emu::Launch& launch);

template <class... P, class... A>
cudaError_t launch_as(bool cooperative, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                      A&&... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> arguments;
  } call{kernel, {std::forward<A>(arguments)...}};
  auto body = [](void* p) {
    Call* c = static_cast<Call*>(p);
    std::apply(c->kernel, c->arguments);
  };
  auto copy = [](const void* p) -> std::shared_ptr<void> {
    return std::make_shared<Call>(*static_cast<const Call*>(p));
  };
  return launch_emulated({{grid.x, grid.y, grid.z},
                          {block.x, block.y, block.z},
                          shared,
                          cooperative,
                          body,
                          &call,
                          copy});
}
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t,
                   A&&... arguments) {
  return launch_as(false, kernel, grid, block, shared, std::forward<A>(arguments)...);
}
template <class... P, class... A>
cudaError_t launch_coop(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t,
                        A&&... arguments) {
  return launch_as(true, kernel, grid, block, shared, std::forward<A>(arguments)...);
}
// Kernels of a stream run one after the other here, so there is nothing to wait for.
template <class... P, class... A>
cudaError_t launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t, A&&... arguments) {
  return launch_as(false, kernel, grid, block, shared, std::forward<A>(arguments)...);
}
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

// ---- barriers, fences, registers -----------------------------------------------------------

inline void grid_sync(HERE) { emu::grid_barrier(where); }
inline void bar_sync(int id, int threads, HERE) { emu::barrier(id, threads, where); }
inline void bar_arrive(int id, int threads, HERE) { emu::barrier(id, threads, where, true); }
void fence_proxy_async();
inline void fence_mbar_init() {}
template <int registers> void setmaxnreg_inc() {}
template <int registers> void setmaxnreg_dec() {}
inline uint32_t smem_u32(const void* p) { return emu::shared_address(p); }

// ---- cp.async ------------------------------------------------------------------------------

void cp_async16(void* dst, const void* src, bool valid = true, HERE);
void cp_async16_part(void* dst, const void* src, int bytes, HERE);
void cp_async4(void* dst, const void* src, bool valid = true, HERE);
void cp_async_commit();
void cp_async_wait_for(int groups_left, Location where);
template <int groups_left> void cp_async_wait(HERE) { cp_async_wait_for(groups_left, where); }

// ---- mbarriers and TMA ---------------------------------------------------------------------

void mbar_init(uint64_t* bar, uint32_t arrivals, HERE);
void mbar_arrive(uint64_t* bar, HERE);
void mbar_expect_tx(uint64_t* bar, uint32_t bytes, HERE);
void mbar_wait(uint64_t* bar, uint32_t parity, HERE);
cudaError_t make_tensor_map_2d(CUtensorMap* map, CUtensorMapDataType type, const void* base,
                               uint64_t width, uint64_t height, uint64_t pitch_bytes,
                               uint32_t box_width, uint32_t box_height, CUtensorMapSwizzle swizzle);
void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int x, int y, HERE);
void tma_store_2d(const CUtensorMap* map, const void* src, int x, int y, HERE);
void tma_store_commit();
void tma_store_wait_for(int groups_left, bool reads_only);
template <int groups_left> void tma_store_wait() { tma_store_wait_for(groups_left, false); }
template <int groups_left> void tma_store_wait_read() { tma_store_wait_for(groups_left, true); }

// ---- matrices ------------------------------------------------------------------------------

void ldmatrix_x4(uint32_t (&r)[4], const void* row, HERE);
void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, HERE);
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], HERE);
void mma_m16n8k16_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], HERE);
void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], HERE);
uint32_t to_tf32(float x);

void wgmma_fence();
void wgmma_commit(HERE);
void wgmma_wait_for(int groups_left, Location where);
template <int groups_left> void wgmma_wait(HERE) { wgmma_wait_for(groups_left, where); }
template <int count> void wgmma_pin(float (&)[count]) {}
void wgmma_issue(float* d, const emu::Wgmma& operation);

template <int n, int transpose_a = 0, int transpose_b = 0>
void wgmma_bf16(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate = 1, HERE) {
  wgmma_issue(d,
              {a, b, n, emu::Factors::bf16, accumulate != 0, transpose_a, transpose_b, {}, where});
}
template <int n, int transpose_a = 0, int transpose_b = 0>
void wgmma_fp16(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate = 1, HERE) {
  wgmma_issue(d,
              {a, b, n, emu::Factors::fp16, accumulate != 0, transpose_a, transpose_b, {}, where});
}
template <int n>
void wgmma_tf32(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate = 1, HERE) {
  wgmma_issue(d, {a, b, n, emu::Factors::tf32, accumulate != 0, false, false, {}, where});
}
#undef HERE

}  // namespace simt
