// Updates of lists of parameters in place.
#include "call.h"

namespace fnn_torch {
namespace {

typedef std::vector<Tensor> List;

// All parameters of one call: one struct of arguments each, run together.
template <class Args> class Steps {
 public:
  Steps(const char* op, const List& params) : op_(op), params_(params), args_(params.size()) {
    if (!params.empty()) call_.emplace(op, "params", params[0]);
  }

  // Null pointers where the list is empty, as it is for state that isn't wanted.
  template <class P> void inout(P Args::* field, const List& list, const char* name) {
    each(list, name, [&](size_t i, const Sizes& sizes) {
      args_[i].*field = call_->inout(list[i], name, sizes.data(), sizes.size());
    });
  }
  void gradients(const List& list) {
    each(list, "grads", [&](size_t i, const Sizes& sizes) {
      args_[i].n = product(sizes);
      args_[i].grad = call_->like(list[i], "grads", sizes);
    });
  }
  // fill(args) sets the numbers.
  template <class Fill> void run(int op, Fill&& fill) {
    for (Args& args : args_) fill(args);
    if (call_) call_->run(op, args_.data(), static_cast<i64>(args_.size()));
  }
  std::vector<Args>& args() { return args_; }

 private:
  const char* op_;
  const List& params_;
  std::vector<Args> args_;
  std::optional<Call> call_;

  template <class F> void each(const List& list, const char* name, F&& f) {
    if (list.empty()) return;
    if (list.size() != params_.size())
      refuse(std::string(op_) + ": " + name + " must hold " + std::to_string(params_.size()) +
             " tensors, got " + std::to_string(list.size()));
    for (size_t i = 0; i < list.size(); i++) f(i, params_[i].sizes());
  }
};

void sgd_step(const List& params, const List& grads, const List& velocities, double lr,
              double momentum, double dampening, bool nesterov, double weight_decay,
              bool maximize) {
  typedef sgd_step_args<char> Args;
  Steps<Args> steps("sgd_step", params);
  steps.inout(&Args::param, params, "params");
  steps.gradients(grads);
  steps.inout(&Args::velocity, velocities, "velocities");
  steps.run(fnn::op_sgd_step, [&](Args& a) {
    a.lr = &lr;
    a.momentum = momentum;
    a.dampening = dampening;
    a.nesterov = nesterov;
    a.weight_decay = weight_decay;
    a.maximize = maximize;
  });
}

void adagrad_step(const List& params, const List& grads, const List& sums, double lr, double eps,
                  double weight_decay, bool maximize) {
  typedef adagrad_step_args<char> Args;
  Steps<Args> steps("adagrad_step", params);
  steps.inout(&Args::param, params, "params");
  steps.gradients(grads);
  steps.inout(&Args::sum_sq, sums, "sums");
  steps.run(fnn::op_adagrad_step, [&](Args& a) {
    a.lr = &lr;
    a.eps = eps;
    a.weight_decay = weight_decay;
    a.maximize = maximize;
  });
}

void rmsprop_step(const List& params, const List& grads, const List& square_avgs,
                  const List& velocities, const List& grad_avgs, double lr, double alpha,
                  double eps, double momentum, bool centered, double weight_decay, bool eps_in_sqrt,
                  bool maximize) {
  typedef rmsprop_step_args<char> Args;
  Steps<Args> steps("rmsprop_step", params);
  steps.inout(&Args::param, params, "params");
  steps.gradients(grads);
  steps.inout(&Args::square_avg, square_avgs, "square_avgs");
  steps.inout(&Args::velocity, velocities, "velocities");
  steps.inout(&Args::grad_avg, grad_avgs, "grad_avgs");
  steps.run(fnn::op_rmsprop_step, [&](Args& a) {
    a.lr = &lr;
    a.alpha = alpha;
    a.eps = eps;
    a.momentum = momentum;
    a.centered = centered;
    a.weight_decay = weight_decay;
    a.eps_in_sqrt = eps_in_sqrt;
    a.maximize = maximize;
  });
}

void adam_step(const List& params, const List& grads, const List& exp_avgs, const List& exp_avg_sqs,
               const List& max_exp_avg_sqs, i64 step, double lr, double beta1, double beta2,
               double eps, double weight_decay, bool decoupled, const Word& eps_mode,
               bool maximize) {
  typedef adam_step_args<char> Args;
  const double number = static_cast<double>(step);
  const i64 mode = choice("adam_step: eps_mode", eps_mode, {"torch", "hat"});
  Steps<Args> steps("adam_step", params);
  steps.inout(&Args::param, params, "params");
  steps.gradients(grads);
  steps.inout(&Args::exp_avg, exp_avgs, "exp_avgs");
  steps.inout(&Args::exp_avg_sq, exp_avg_sqs, "exp_avg_sqs");
  steps.inout(&Args::max_exp_avg_sq, max_exp_avg_sqs, "max_exp_avg_sqs");
  steps.run(fnn::op_adam_step, [&](Args& a) {
    a.step = &number;
    a.lr = &lr;
    a.beta1 = beta1;
    a.beta2 = beta2;
    a.eps = eps;
    a.weight_decay = weight_decay;
    a.decoupled = decoupled;
    a.amsgrad = !max_exp_avg_sqs.empty();
    a.eps_mode = mode;
    a.maximize = maximize;
  });
}

}  // namespace

void add_optimizers(Library& m) {
  REGISTER(sgd_step)
  REGISTER(adagrad_step)
  REGISTER(rmsprop_step)
  REGISTER(adam_step)
}

}  // namespace fnn_torch
