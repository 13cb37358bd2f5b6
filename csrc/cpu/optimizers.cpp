// Optimizer steps: decay, moments, bias correction and the update of an element fused, so that
// gradient, state and parameter cross memory once (simd/optimizers.h).
#include "simd/optimizers.h"

#include "simd/each.h"

namespace {

enum : i64 { kGrain = 4096 };

template <class Args> FNN_INLINE void update_all(const Args& a, const Team& team) {
  const auto shared = constants(a);
  share_range(team, a.n, kGrain, [&](i64 begin, i64 end) {
    each_aligned_vec(a.param, begin, end, [&](auto at) { update(a, shared, at); });
  });
}

}  // namespace

KERNEL(sgd_step) { update_all(a, team); }
KERNEL(adagrad_step) { update_all(a, team); }
KERNEL(rmsprop_step) { update_all(a, team); }
KERNEL(adam_step) { update_all(a, team); }
KERNEL(radam_step) { update_all(a, team); }
