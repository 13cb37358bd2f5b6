// Activations, softmax and normalisation, with their gradients.
#include "call.h"

namespace fnn_torch {
namespace {

// ---- element by element --------------------------------------------------------------------

// NUMBERS are the op's REALs, as the operator has them.
#define ELEMENTWISE(name, SIGNATURE, NUMBERS)                           \
  Tensor name(const Tensor& x SIGNATURE) {                              \
    Call call(#name, "x", x);                                           \
    Tensor y = call.out(x.sizes());                                     \
    name##_args<char> args{.n = x.numel(), .x = call.in(x, "x")};       \
    NUMBERS args.y = Call::data(y);                                     \
    call.run(fnn::op_##name, &args);                                    \
    return y;                                                           \
  }                                                                     \
  Tensor name##_backward(const Tensor& dy, const Tensor& x SIGNATURE) { \
    Call call(#name "_backward", "x", x);                               \
    Tensor dx = call.out(x.sizes());                                    \
    name##_backward_args<char> args{.n = x.numel()};                    \
    args.dy = call.like(dy, "dy", x.sizes());                           \
    args.x = call.in(x, "x");                                           \
    NUMBERS args.dx = Call::data(dx);                                   \
    call.run(fnn::op_##name##_backward, &args);                         \
    return dx;                                                          \
  }
#define NOTHING
#define SLOPE , double negative_slope
#define SHARPNESS , double beta, double threshold

ELEMENTWISE(relu, NOTHING, NOTHING)
ELEMENTWISE(leaky_relu, SLOPE, args.negative_slope = negative_slope;)
ELEMENTWISE(sigmoid, NOTHING, NOTHING)
ELEMENTWISE(hard_sigmoid, NOTHING, NOTHING)
ELEMENTWISE(tanh, NOTHING, NOTHING)
ELEMENTWISE(gelu, NOTHING, NOTHING)
ELEMENTWISE(gelu_tanh, NOTHING, NOTHING)
ELEMENTWISE(silu, NOTHING, NOTHING)
ELEMENTWISE(softplus, SHARPNESS, args.beta = beta; args.threshold = threshold;)

// ---- rows ----------------------------------------------------------------------------------

#define SOFTMAX(name)                                            \
  Tensor name(const Tensor& x) {                                 \
    Call call(#name, "x", x);                                    \
    Tensor y = call.out(x.sizes());                              \
    name##_args<char> args{.n = rows(x), .c = last(x)};          \
    args.x = call.in(x, "x");                                    \
    args.y = Call::data(y);                                      \
    call.run(fnn::op_##name, &args);                             \
    return y;                                                    \
  }                                                              \
  Tensor name##_backward(const Tensor& dy, const Tensor& y) {    \
    Call call(#name "_backward", "y", y);                        \
    Tensor dx = call.out(y.sizes());                             \
    name##_backward_args<char> args{.n = rows(y), .c = last(y)}; \
    args.dy = call.like(dy, "dy", y.sizes());                    \
    args.y = call.in(y, "y");                                    \
    args.dx = Call::data(dx);                                    \
    call.run(fnn::op_##name##_backward, &args);                  \
    return dx;                                                   \
  }
SOFTMAX(softmax)
SOFTMAX(log_softmax)

Three layer_norm(const Tensor& x, const Maybe& weight, const Maybe& bias, double eps) {
  Call call("layer_norm", "x", x);
  const Sizes sizes = x.sizes();
  if (sizes.empty()) call.refuse_sizes("x", "(n..., c)", x);
  const Sizes outer(sizes.data(), sizes.size() - 1);
  Tensor y = call.out(sizes), mean = call.out(outer), rstd = call.out(outer);
  layer_norm_args<char> args{.n = rows(x), .c = last(x), .x = call.in(x, "x")};
  args.gamma = call.maybe(weight, "weight", {args.c});
  args.beta = call.maybe(bias, "bias", {args.c});
  args.eps = eps;
  args.y = Call::data(y);
  args.mean = Call::data(mean);
  args.rstd = Call::data(rstd);
  call.run(fnn::op_layer_norm, &args);
  return {y, mean, rstd};
}

Three layer_norm_backward(const Tensor& dy, const Tensor& x, const Maybe& weight,
                          const Tensor& mean, const Tensor& rstd) {
  Call call("layer_norm_backward", "x", x);
  const Sizes sizes = x.sizes();
  if (sizes.empty()) call.refuse_sizes("x", "(n..., c)", x);
  const Sizes outer(sizes.data(), sizes.size() - 1);
  const i64 c = last(x);
  Tensor dx = call.out(sizes), dweight = call.out({c}), dbias = call.out({c});
  layer_norm_backward_args<char> args{.n = rows(x), .c = c};
  args.dy = call.like(dy, "dy", sizes);
  args.x = call.in(x, "x");
  args.gamma = call.maybe(weight, "weight", {c});
  args.mean = call.like(mean, "mean", outer);
  args.rstd = call.like(rstd, "rstd", outer);
  args.dx = Call::data(dx);
  args.dgamma = Call::data(dweight);
  args.dbeta = Call::data(dbias);
  call.run(fnn::op_layer_norm_backward, &args);
  return {dx, dweight, dbias};
}

// ---- channels ------------------------------------------------------------------------------

void require_channels(const Call& call, const Tensor& x) {
  if (x.dim() < 2) call.refuse_sizes("x", "(n, c) or (n, c, ...)", x);
}

Three batch_norm(const Tensor& x, const Maybe& weight, const Maybe& bias, const Maybe& running_mean,
                 const Maybe& running_var, bool training, double momentum, double eps) {
  Call call("batch_norm", "x", x);
  require_channels(call, x);
  const i64 c = x.size(1);
  Tensor y = call.out(x.sizes()), mean = call.out({c}), rstd = call.out({c});
  batch_norm_args<char> args{.n = x.size(0), .c = c, .s = product(x.sizes(), 2)};
  args.x = call.in(x, "x");
  args.gamma = call.maybe(weight, "weight", {c});
  args.beta = call.maybe(bias, "bias", {c});
  if (running_mean) args.running_mean = call.inout(*running_mean, "running_mean", &c, 1);
  if (running_var) args.running_var = call.inout(*running_var, "running_var", &c, 1);
  args.training = training;
  args.momentum = momentum;
  args.eps = eps;
  args.unbiased_running_var = 1;
  args.activation = -1;
  args.y = Call::data(y);
  args.mean = Call::data(mean);
  args.rstd = Call::data(rstd);
  call.run(fnn::op_batch_norm, &args);
  return {y, mean, rstd};
}

Three batch_norm_backward(const Tensor& dy, const Tensor& x, const Maybe& weight,
                          const Tensor& mean, const Tensor& rstd, bool training) {
  Call call("batch_norm_backward", "x", x);
  require_channels(call, x);
  const i64 c = x.size(1);
  Tensor dx = call.out(x.sizes()), dweight = call.out({c}), dbias = call.out({c});
  batch_norm_backward_args<char> args{.n = x.size(0), .c = c, .s = product(x.sizes(), 2)};
  args.dy = call.like(dy, "dy", x.sizes());
  args.x = call.in(x, "x");
  args.gamma = call.maybe(weight, "weight", {c});
  args.mean = call.in(mean, "mean", {c});
  args.rstd = call.in(rstd, "rstd", {c});
  args.training = training;
  args.activation = -1;
  args.dx = Call::data(dx);
  args.dgamma = Call::data(dweight);
  args.dbeta = Call::data(dbias);
  call.run(fnn::op_batch_norm_backward, &args);
  return {dx, dweight, dbias};
}

}  // namespace

void add_layers(Library& m) {
  REGISTER_BOTH(relu)
  REGISTER_BOTH(leaky_relu)
  REGISTER_BOTH(sigmoid)
  REGISTER_BOTH(hard_sigmoid)
  REGISTER_BOTH(tanh)
  REGISTER_BOTH(gelu)
  REGISTER_BOTH(gelu_tanh)
  REGISTER_BOTH(silu)
  REGISTER_BOTH(softplus)
  REGISTER_BOTH(softmax)
  REGISTER_BOTH(log_softmax)
  REGISTER_BOTH(layer_norm)
  REGISTER_BOTH(batch_norm)
}

}  // namespace fnn_torch
