// steps: whole training steps as plans, run on the emulated GPU (csrc/plan/device_plan.h) and on
// the CPU from the same recording: rescale, two products, batch norm, dropout, cross-entropy, their
// gradients, the norm, Adam. Everything that training changes and notes must agree.
#include "device/steps.h"

#include <string.h>

#include "device/table.h"
#include "device/transfer.h"
#include "harness.h"
#include "plan/device_plan.h"

using namespace fnn;

namespace {

constexpr i64 kRows = 37, kBatch = 9, kFeatures = 20, kHidden = 24, kClasses = 5;

// ---- the device --------------------------------------------------------------------------------

CudaError told(cudaError_t error) {
  return {error == cudaSuccess ? CudaError::none : CudaError::other, "error", "error"};
}

CudaApi make_api() {
  CudaApi api{};
  api.workspace = [](int op, bool f64, const void* args) {
    return cuda_kernels[op][f64].workspace(args);
  };
  api.launch = [](CudaQueue queue, int op, bool f64, const void* args, void* workspace) {
    const CudaCall call{static_cast<cudaStream_t>(queue.stream), static_cast<char*>(workspace)};
    return told(cuda_kernels[op][f64].launch(args, &call));
  };
  api.allocate = [](CudaQueue, i64 bytes, void** p) { return told(cudaMalloc(p, size_t(bytes))); };
  api.release = [](CudaQueue, void* p) { cudaFree(p); };
  api.copy = [](CudaQueue queue, const CudaCopy& copy) {
    return told(launch_copy(copy, static_cast<cudaStream_t>(queue.stream)));
  };
  api.wait = [](CudaQueue queue) {
    return told(cudaStreamSynchronize(static_cast<cudaStream_t>(queue.stream)));
  };
  api.steps = &cuda_steps;
  return api;
}

// ---- a network ---------------------------------------------------------------------------------

struct Vector {
  std::vector<float> v;
  Vector(size_t n, unsigned seed, double scale) : v(random_normal(n, seed)) {
    for (float& x : v) x = float(double(x) * scale);
  }
  Vector(size_t n, float value) : v(n, value) {}
  operator float*() { return v.data(); }
};

// What training changes, one flat array each for weights, gradients and moments.
struct Model {
  static constexpr i64 w1 = 0, b1 = w1 + kFeatures * kHidden, gamma = b1 + kHidden,
                       beta = gamma + kHidden, w2 = beta + kHidden, b2 = w2 + kHidden * kClasses,
                       size = b2 + 8;  // a multiple of 4
  Vector values{size, 3, 0.2}, grads{size, 0.f}, m{size, 0.f}, v{size, 0.f};
  Vector running_mean{kHidden, 0.f}, running_var{kHidden, 1.f};
  Clock clock;
  float loss = 0, norm = 0;
  i64 correct = 0;
  std::vector<float> losses, norms;
  std::vector<i64> counts;
  std::vector<Vector*> all() { return {&values, &grads, &m, &v, &running_mean, &running_var}; }
};

class Recording {
 public:
  Plan plan{std::make_shared<Arena>()};
  const float *loss, *norm;
  const i64* correct;

  explicit Recording(Model& model) {
    const auto* pixels = input<u8>(kFeatures);
    const auto* labels = input<i64>(1);
    float* x = take(kBatch * kFeatures);
    rescale_args<float> rescale{};
    rescale.n = kBatch * kFeatures;
    rescale.x = pixels;
    rescale.scale = 1.0 / 255;
    rescale.y = x;
    add(op_rescale, rescale);
    float* h = product(x, kFeatures, model.values + Model::w1, model.values + Model::b1, kHidden);
    batch_norm(model, h);
    dropout(model);
    float* logits =
        product(dropped, kHidden, model.values + Model::w2, model.values + Model::b2, kClasses);
    float* dlogits = cross_entropy(logits, labels);
    float* d = take(kBatch * kHidden);
    matmul_args<float> dx = matmul(kBatch, kHidden, kClasses);
    matrix(dx.a, dx.a_rs, dx.a_cs, dlogits, kClasses, false);
    matrix(dx.b, dx.b_rs, dx.b_cs, model.values + Model::w2, kClasses, true);
    dx.y = d;
    add(op_matmul, dx);
    gradient(dropped, kHidden, dlogits, kClasses, model.grads + Model::w2, model.grads + Model::b2);
    dropout_backward_args<float> undrop{};
    undrop.n = kBatch * kHidden;
    undrop.dy = d;
    undrop.mask = mask;
    undrop.p = 0.25;
    undrop.dx = d;
    add(op_dropout_backward, undrop);
    batch_norm_backward(model, h, d);
    gradient(x, kFeatures, d, kHidden, model.grads + Model::w1, model.grads + Model::b1);
    plan.commit = plan.calls.size();
    update(model);
    for (Vector* running : {&model.running_mean, &model.running_var})
      plan.keep(reinterpret_cast<char*>(running->v.data()), kHidden * sizeof(float));
    plan.finish();
  }

 private:
  float *normed, *mean, *rstd, *dropped;
  bool* mask;

  template <class A> void add(Op op, const A& args) {
    Slot slots[kMaxSlots];
    memcpy(slots, &args, sizeof args);
    plan.add(all_ops()[op], false, slots);
  }
  float* take(i64 n) { return reinterpret_cast<float*>(plan.arena->take(size_t(n) * 4)); }
  template <class T> const T* input(i64 columns) {
    const i64 row = columns * i64(sizeof(T));
    char* data = plan.arena->take(size_t(kBatch * row));
    plan.inputs.push_back({data, kBatch, row, {}});
    return reinterpret_cast<const T*>(data);
  }
  static matmul_args<float> matmul(i64 m, i64 n, i64 k) {
    matmul_args<float> a{};
    a.m = m, a.n = n, a.k = k;
    a.activation = a.precision = -1;
    return a;
  }
  static void matrix(const float*& p, i64& rs, i64& cs, const float* data, i64 width,
                     bool transposed) {
    p = data;
    rs = transposed ? 1 : width;
    cs = transposed ? width : 1;
  }
  float* product(const float* x, i64 k, const float* w, const float* bias, i64 n) {
    matmul_args<float> a = matmul(kBatch, n, k);
    matrix(a.a, a.a_rs, a.a_cs, x, k, false);
    matrix(a.b, a.b_rs, a.b_cs, w, n, false);
    a.bias = bias;
    a.y = take(kBatch * n);
    add(op_matmul, a);
    return a.y;
  }
  void gradient(const float* x, i64 rows, const float* dy, i64 columns, float* dw, float* db) {
    matmul_args<float> a = matmul(rows, columns, kBatch);
    matrix(a.a, a.a_rs, a.a_cs, x, rows, true);
    matrix(a.b, a.b_rs, a.b_cs, dy, columns, false);
    a.y = dw;
    add(op_matmul, a);
    column_sum_args<float> sum{};
    sum.n = kBatch, sum.c = columns;
    sum.x = dy;
    sum.y = db;
    add(op_column_sum, sum);
  }
  void batch_norm(Model& model, const float* h) {
    batch_norm_args<float> a{};
    a.n = kBatch, a.c = kHidden, a.s = 1;
    a.x = h;
    a.gamma = model.values + Model::gamma;
    a.beta = model.values + Model::beta;
    a.running_mean = model.running_mean;
    a.running_var = model.running_var;
    a.training = a.unbiased_running_var = 1;
    a.momentum = 0.1;
    a.eps = 1e-5;
    a.activation = 0;
    a.y = normed = take(kBatch * kHidden);
    a.mean = mean = take(kHidden);
    a.rstd = rstd = take(kHidden);
    add(op_batch_norm, a);
  }
  void batch_norm_backward(Model& model, const float* h, float* d) {
    batch_norm_backward_args<float> a{};
    a.n = kBatch, a.c = kHidden, a.s = 1;
    a.dy = d;
    a.x = h;
    a.gamma = model.values + Model::gamma;
    a.mean = mean;
    a.rstd = rstd;
    a.training = 1;
    a.activation = 0;
    a.y = normed;
    a.dx = d;
    a.dgamma = model.grads + Model::gamma;
    a.dbeta = model.grads + Model::beta;
    add(op_batch_norm_backward, a);
  }
  void dropout(Model& model) {
    dropout_args<float> a{};
    a.n = kBatch * kHidden;
    a.x = normed;
    a.p = 0.25;
    a.seed = 11;
    a.offset = &model.clock.updates;
    a.y = dropped = take(kBatch * kHidden);
    a.mask = mask = reinterpret_cast<bool*>(take(kBatch * kHidden / 4 + 1));
    add(op_dropout, a);
  }
  float* cross_entropy(float* logits, const i64* labels) {
    softmax_cross_entropy_args<float> a{};
    a.n = kBatch, a.c = kClasses;
    a.logits = logits;
    a.labels = labels;
    a.ignore_index = -100;
    a.loss = take(1);
    a.dlogits = take(kBatch * kClasses);
    add(op_softmax_cross_entropy, a);
    loss = a.loss;
    count_correct_args<float> count{};
    count.n = kBatch, count.c = kClasses;
    count.logits = logits;
    count.labels = labels;
    count.count = reinterpret_cast<i64*>(take(2));
    add(op_count_correct, count);
    correct = count.count;
    return a.dlogits;
  }
  void update(Model& model) {
    l2_norm_args<float> measured{};
    measured.n = Model::size;
    measured.x = model.grads;
    measured.norm = take(1);
    add(op_l2_norm, measured);
    norm = measured.norm;
    adam_step_args<float> a{};
    a.n = Model::size;
    a.param = model.values;
    a.grad = model.grads;
    a.exp_avg = model.m;
    a.exp_avg_sq = model.v;
    a.step = &model.clock.step;
    a.lr = &model.clock.lr;
    a.beta1 = 0.9, a.beta2 = 0.999;
    a.eps = 1e-3;
    add(op_adam_step, a);
  }
};

// ---- runs --------------------------------------------------------------------------------------

struct Samples {
  std::vector<u8> pixels;
  std::vector<i64> labels;
  Samples() {
    for (i64 i = 0; i < kRows * kFeatures; i++) pixels.push_back(u8(i * i * 31 % 251));
    for (i64 i = 0; i < kRows; i++) labels.push_back(i * 7 % kClasses);
  }
};

// Two epochs in shuffled order, and three steps over and over the same rows; then a step without an
// update, and with `guarded` one that the guard ends.
template <class Run>
void train(Model& model, const Recording& r, const char* pixels, const char* labels, Run run) {
  const double rates[] = {0.1, 0.05, 0.025, 0.0125};
  auto steps = [&](i64 count, bool shuffle, u64 epoch, bool update, const i64* guard) {
    const Source sources[] = {{pixels, shuffle}, {labels, shuffle}};
    Steps s{};
    s.sources = sources;
    s.rows = kRows;
    s.count = count;
    s.shuffle = shuffle;
    s.wrap = !shuffle;
    s.seed = 5;
    s.epoch = epoch;
    s.lr = rates;
    s.clock = &model.clock;
    s.update = update;
    s.guard = guard;
    std::vector<float> losses(4, -1), norms(4, -1);
    std::vector<i64> counts(4, -1);
    s.records = {{r.loss, reinterpret_cast<char*>(losses.data()), sizeof(float)},
                 {r.correct, reinterpret_cast<char*>(counts.data()), sizeof(i64)}};
    if (update) s.records.push_back({r.norm, reinterpret_cast<char*>(norms.data()), sizeof(float)});
    model.counts.push_back(run(s));
    model.losses.insert(model.losses.end(), losses.begin(), losses.end());
    model.norms.insert(model.norms.end(), norms.begin(), norms.end());
    model.counts.insert(model.counts.end(), counts.begin(), counts.end());
  };
  steps(4, true, 0, true, nullptr);
  steps(4, true, 1, true, nullptr);
  steps(3, false, 0, true, nullptr);
  steps(1, false, 0, false, nullptr);
  steps(2, true, 2, true, r.correct);  // never negative: ends its first step
}

std::vector<double> wide(const std::vector<float>& v) { return {v.begin(), v.end()}; }

}  // namespace

int main() {
  Samples samples;
  Model host, device;
  Recording on_host(host), on_device(device);
  const char* pixels = reinterpret_cast<const char*>(samples.pixels.data());
  const char* labels = reinterpret_cast<const char*>(samples.labels.data());
  train(host, on_host, pixels, labels, [&](const Steps& s) { return on_host.plan.run(s); });
  {
    const CudaApi api = make_api();
    auto gpu = std::make_shared<fnn::Device>(api, 0);
    auto state = std::make_shared<Mirror>(gpu), arena = std::make_shared<Mirror>(gpu);
    state->add(&device.clock, sizeof(Clock));
    for (Vector* v : device.all()) {
      const i64 bytes = i64(v->v.size() * sizeof(float));
      state->add(v->v.data(), bytes).upload(v->v.data(), bytes);
    }
    DeviceBlock x(gpu, i64(samples.pixels.size())), y(gpu, kRows * 8);
    x.upload(pixels, x.size());
    y.upload(labels, y.size());
    const std::vector<HostMemory> numbers = {
        {on_device.loss, 4}, {on_device.correct, 8}, {on_device.norm, 4}};
    DevicePlan plan(gpu, on_device.plan, state, arena, {}, numbers, device.clock);
    train(device, on_device, x.data(), y.data(), [&](const Steps& s) { return plan.run(s); });
    for (Vector* v : device.all())
      state->block(v->v.data())->download(v->v.data(), i64(v->v.size() * sizeof(float)));
  }
  const char* names[] = {"weights",        "gradients", "first moments",
                         "second moments", "means",     "variances"};
  for (size_t i = 0; i < device.all().size(); i++)
    check(names[i], device.all()[i]->v, wide(host.all()[i]->v), {1}, 1e-4);
  check("losses", device.losses, wide(host.losses), {1}, 1e-4);
  check("norms", device.norms, wide(host.norms), {1}, 1e-4);
  check("counts", std::vector<double>(device.counts.begin(), device.counts.end()),
        std::vector<double>(host.counts.begin(), host.counts.end()), {1}, 0);
  check("updates", std::vector<double>{double(device.clock.updates), device.clock.step},
        {double(host.clock.updates), host.clock.step}, {1}, 0);
  return failures ? 1 : 0;
}
