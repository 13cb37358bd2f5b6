// The product with its bias and activation, and its gradients.
#include "call.h"

namespace fnn_torch {
namespace {

i64 activation_of(const std::optional<Word>& word) {
  if (!word) return -1;
  return choice("linear: activation", *word,
                {"relu", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh", "gelu", "gelu_tanh",
                 "silu", "softplus"});
}

// A matrix where it lies, by strides; rows of a tensor of more axes are counted through.
struct Matrix {
  char* data;
  i64 rows, columns, row_stride, column_stride;
  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

Matrix matrix(Call& call, const Tensor& t, const char* name) {
  if (t.dim() == 2) {
    call.check_type(t, name);
    return {Call::data(t), t.size(0), t.size(1), t.stride(0), t.stride(1)};
  }
  const i64 columns = last(t);
  return {call.in(t, name), rows(t), columns, columns, 1};
}

void multiply(Call& call, const Matrix& a, const Matrix& b, const Tensor& y,
              matmul_args<char> args = {.activation = -1}) {
  args.m = a.rows;
  args.n = b.columns;
  args.k = a.columns;
  args.a = a.data;
  args.a_rs = a.row_stride;
  args.a_cs = a.column_stride;
  args.b = b.data;
  args.b_rs = b.row_stride;
  args.b_cs = b.column_stride;
  args.precision = -1;
  args.y = Call::data(y);
  call.run(fnn::op_matmul, &args);
}

// act(x @ weight.T + bias), and what the activation was given if `preactivation` wants it.
Tensor product_of(const Tensor& x, const Tensor& weight, const Maybe& bias, i64 activation,
                  Tensor* preactivation) {
  Call call("linear", "x", x);
  if (weight.dim() != 2) call.refuse_sizes("weight", "(out_features, in_features)", weight);
  if (x.dim() < 1 || last(x) != weight.size(1))
    call.refuse_sizes("x", "(..., " + std::to_string(weight.size(1)) + ")", x);
  std::vector<i64> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = weight.size(0);
  Tensor y = call.out(Sizes(sizes.data(), sizes.size()));
  matmul_args<char> args{.bias = call.maybe(bias, "bias", {sizes.back()}),
                         .activation = activation};
  if (preactivation) {
    *preactivation = call.out(y.sizes());
    args.return_preactivation = 1;
    args.preactivation = Call::data(*preactivation);
  }
  multiply(call, matrix(call, x, "x"), matrix(call, weight, "weight").transposed(), y, args);
  return y;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Maybe& bias,
              const std::optional<Word>& activation) {
  return product_of(x, weight, bias, activation_of(activation), nullptr);
}

Two linear_preactivation(const Tensor& x, const Tensor& weight, const Maybe& bias,
                         const Word& activation) {
  Tensor kept, y = product_of(x, weight, bias, activation_of(activation), &kept);
  return {y, kept};
}

// Gradients that are not needed come back empty.
Three linear_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, bool needs_x,
                      bool needs_weight, bool needs_bias) {
  Call call("linear_backward", "x", x);
  const i64 outputs = last(dy);
  if (weight.dim() != 2 || weight.size(0) != outputs || weight.size(1) != last(x))
    call.refuse_sizes("weight", text_of({outputs, last(x)}), weight);
  if (rows(dy) != rows(x)) call.refuse_sizes("dy", "(..., n) with as many rows as x", dy);
  Tensor dx = needs_x ? call.out(x.sizes()) : call.out({0});
  Tensor dweight = needs_weight ? call.out(weight.sizes()) : call.out({0});
  Tensor dbias = needs_bias ? call.out({outputs}) : call.out({0});
  const Matrix gradient = matrix(call, dy, "dy");
  if (needs_x) multiply(call, gradient, matrix(call, weight, "weight"), dx);
  if (needs_weight) multiply(call, gradient.transposed(), matrix(call, x, "x"), dweight);
  if (needs_bias) {
    column_sum_args<char> args{.n = gradient.rows, .c = outputs, .x = call.in(dy, "dy")};
    args.y = Call::data(dbias);
    call.run(fnn::op_column_sum, &args);
  }
  return {dx, dweight, dbias};
}

}  // namespace

void add_linear(Library& m) {
  REGISTER_BOTH(linear)
  REGISTER(linear_preactivation)
}

}  // namespace fnn_torch
