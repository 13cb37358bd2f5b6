// Softmax cross-entropy: the loss, and with it the gradient.
#include "call.h"

namespace fnn_torch {
namespace {

bool is_signed(ScalarType type) {
  return type == ScalarType::Char || type == ScalarType::Short || type == ScalarType::Int ||
         type == ScalarType::Long;
}
bool is_integer(ScalarType type) {
  return is_signed(type) || type == ScalarType::Byte || type == ScalarType::UInt16 ||
         type == ScalarType::UInt32 || type == ScalarType::UInt64;
}

Two softmax_cross_entropy(const Tensor& logits, const Tensor& target, const Maybe& weight,
                          const Word& reduction, i64 ignore_index, double label_smoothing) {
  Call call("cross_entropy", "logits", logits);
  if (logits.dim() != 2) call.refuse_sizes("logits", "(n, c)", logits);
  softmax_cross_entropy_args<char> args{.n = logits.size(0), .c = logits.size(1)};
  args.logits = call.in(logits, "logits");
  std::vector<i64> labels;
  if (is_integer(target.scalar_type())) {
    if (target.dim() != 1 || target.size(0) != args.n)
      call.refuse_sizes("target", text_of({args.n}), target);
    labels.resize(static_cast<size_t>(args.n) + 1);
    const i64 size = static_cast<i64>(target.element_size());
    const fnn::Integers integers{Call::data(target), args.n, target.stride(0) * size,
                                 static_cast<int>(size), is_signed(target.scalar_type())};
    if (const char* wrong = api->copy_labels(fnn::op_softmax_cross_entropy, integers, args.c,
                                             ignore_index, labels.data()))
      refuse(wrong);
    args.labels = labels.data();
  } else {
    args.probabilities = call.in(target, "target", {args.n, args.c});
  }
  args.weight = call.maybe(weight, "weight", {args.c});
  args.ignore_index = ignore_index;
  args.label_smoothing = label_smoothing;
  args.reduction = choice("cross_entropy: reduction", reduction, {"mean", "sum", "none"});
  Tensor loss = args.reduction == 2 ? call.out({args.n}) : call.out(std::initializer_list<i64>{});
  Tensor dlogits = call.out({args.n, args.c});
  args.loss = Call::data(loss);
  args.dlogits = Call::data(dlogits);
  call.run(fnn::op_softmax_cross_entropy, &args);
  return {loss, dlogits};
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Maybe& weight,
                     const Word& reduction, i64 ignore_index, double label_smoothing) {
  return std::get<0>(
      softmax_cross_entropy(logits, target, weight, reduction, ignore_index, label_smoothing));
}

}  // namespace

void add_cross_entropy(Library& m) {
  REGISTER(softmax_cross_entropy)
  REGISTER(cross_entropy)
}

}  // namespace fnn_torch
