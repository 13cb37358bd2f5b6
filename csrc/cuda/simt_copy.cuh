// Asynchronous copies: cp.async (sm_80), mbarriers and TMA (sm_90). Part of simt.cuh.
#pragma once

namespace simt {

// ---- cp.async ------------------------------------------------------------------------------

// 16 or 4 bytes from global to shared memory; zeros where !valid, and src is not read.
SIMT_DEVICE void cp_async16(void* dst, const void* src, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(dst)), "l"(src),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The first `bytes` of 16, 0 to 16, and zeros.
SIMT_DEVICE void cp_async16_part(void* dst, const void* src, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(dst)), "l"(src),
               "r"(bytes)
               : "memory");
}
SIMT_DEVICE void cp_async4(void* dst, const void* src, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem_u32(dst)), "l"(src),
               "r"(valid ? 4 : 0)
               : "memory");
}
SIMT_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most groups_left of the thread's committed groups are under way.
template <int groups_left> SIMT_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
}

// ---- mbarriers -----------------------------------------------------------------------------

SIMT_DEVICE void mbar_init(uint64_t* bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(smem_u32(bar)), "r"(arrivals) : "memory");
}
SIMT_DEVICE void mbar_arrive(uint64_t* bar) {
  SIMT_ON_SM90(asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(smem_u32(bar)) : "memory"));
}
// Arrives, and makes the phase wait for so many bytes of TMA loads.
SIMT_DEVICE void mbar_expect_tx(uint64_t* bar, uint32_t bytes) {
  SIMT_ON_SM90(
      asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(smem_u32(bar)),
                   "r"(bytes) : "memory"));
}
// Waits for the end of the phase of that parity: 0 for the first, 1 for the second, 0 ...; the
// phase before the first counts as ended.
SIMT_DEVICE void mbar_wait(uint64_t* bar, uint32_t parity) {
  SIMT_ON_SM90(
      asm volatile("{\n"
                   ".reg .pred done;\n"
                   "again:\n"
                   "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                   "@!done bra again;\n"
                   "}" ::"r"(smem_u32(bar)),
                   "r"(parity) : "memory"));
}

// ---- TMA -----------------------------------------------------------------------------------

// A row-major matrix of bf16, fp16 or fp32 to be copied in boxes; `width` along a row. The widths
// of a row and of a box's row are multiples of 16 bytes.
inline cudaError_t make_tensor_map_2d(CUtensorMap* map, CUtensorMapDataType type, const void* base,
                                      uint64_t width, uint64_t height, uint64_t pitch_bytes,
                                      uint32_t box_width, uint32_t box_height,
                                      CUtensorMapSwizzle swizzle) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const auto find = [] {  // of the driver, which this library does not link
    void* found = nullptr;
    cudaDriverEntryPointQueryResult status;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &status);
    return error == cudaSuccess && status == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : nullptr;
  };
  static const Encode encode = find();
  if (!encode) return cudaErrorNotSupported;
  const cuuint64_t size[2] = {width, height}, pitch[1] = {pitch_bytes};
  const cuuint32_t box[2] = {box_width, box_height}, step[2] = {1, 1};
  const CUresult result = encode(
      map, type, 2, const_cast<void*>(base), size, pitch, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// The box whose first element is (x, y), zero outside of the matrix; its bytes count at `bar`.
// One thread issues it.
SIMT_DEVICE void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int x, int y) {
  SIMT_ON_SM90(asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(smem_u32(dst)),
      "l"(map), "r"(smem_u32(bar)), "r"(x), "r"(y) : "memory"));
}
// What lies outside of the matrix is not written. After fence_proxy_async() and a barrier.
SIMT_DEVICE void tma_store_2d(const CUtensorMap* map, const void* src, int x, int y) {
  SIMT_ON_SM90(
      asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group "
                   "[%0, {%2, %3}], [%1];" ::"l"(map),
                   "r"(smem_u32(src)), "r"(x), "r"(y) : "memory"));
}
SIMT_DEVICE void tma_store_commit() {
  SIMT_ON_SM90(asm volatile("cp.async.bulk.commit_group;" :: : "memory"));
}
// Waits until the stores are done, or until shared memory has been read and may be reused.
template <int groups_left> SIMT_DEVICE void tma_store_wait() {
  SIMT_ON_SM90(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(groups_left) : "memory"));
}
template <int groups_left> SIMT_DEVICE void tma_store_wait_read() {
  SIMT_ON_SM90(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(groups_left) : "memory"));
}

}  // namespace simt
