#include "device_plan.h"

#include <stddef.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace fnn {
namespace {

// Slots of a field that hold addresses.
int addresses(const Field& f) {
  if (f.kind == Kind::targets) return 2;
  const bool one = f.is_array() || f.is_result() || f.kind == Kind::scalar ||
                   f.kind == Kind::counter || f.kind == Kind::fused;
  return one ? 1 : 0;
}

}  // namespace

DevicePlan::DevicePlan(std::shared_ptr<Device> device, const Plan& plan,
                       std::shared_ptr<Mirror> state, std::shared_ptr<Mirror> arena,
                       const std::vector<HostMemory>& constants,
                       const std::vector<HostMemory>& numbers, const Clock& clock)
    : device_(std::move(device)), state_(std::move(state)), arena_(std::move(arena)),
      constants_(device_), numbers_(numbers), clock_(state_->block(&clock)),
      run_(device_, sizeof(CudaRun)) {
  if (plan.inputs.empty() || plan.inputs.size() > kStepInputs || numbers.size() > kStepRecords)
    throw std::invalid_argument("DevicePlan: too many or too few inputs or numbers");
  if (!clock_) throw std::invalid_argument("DevicePlan: the clock is not on the device");
  take_constants(constants);
  char* ticks = clock_->data();
  gather_ = {reinterpret_cast<CudaRun*>(run_.data()),
             plan.inputs[0].rows,
             static_cast<int>(plan.inputs.size()),
             {},
             reinterpret_cast<double*>(ticks + offsetof(Clock, lr))};
  take_calls(plan);
  conclude_ = {reinterpret_cast<CudaRun*>(run_.data()),
               reinterpret_cast<i64*>(ticks + offsetof(Clock, updates)),
               reinterpret_cast<double*>(ticks + offsetof(Clock, step)),
               static_cast<int>(numbers.size()),
               {}};
  for (size_t i = 0; i < numbers.size(); i++)
    conclude_.each[i] = {translated(numbers[i].data, *plan.arena), numbers[i].size};
  for (const fnn::Kept& kept : plan.kept) {
    const i64 size = static_cast<i64>(kept.size);
    befores_.push_back(std::make_unique<DeviceBlock>(device_, size));
    kept_.push_back({translated(kept.data, *plan.arena), befores_.back().get()});
  }
  take_workspace();
}

DevicePlan::~DevicePlan() {
  for (void* graph : graphs_)
    if (graph) device_->steps().forget(device_->queue.device, graph);
}

// ---- calls ---------------------------------------------------------------------------------

// Whether the first call rescales all of the input, and nobody else reads it.
static bool is_rescaled(const Input& input, const std::vector<Call>& calls) {
  const char *begin = input.data, *end = begin + input.rows * input.row_bytes;
  if (calls.empty() || calls[0].op->id != op_rescale || calls[0].slots[1].p != begin) return false;
  for (size_t c = 1; c < calls.size(); c++)
    for (const Field& f : calls[c].op->fields)
      for (int slot = f.slot; slot < f.slot + addresses(f); slot++) {
        const char* p = static_cast<const char*>(calls[c].slots[slot].p);
        if (p >= begin && p < end && !f.is_result()) return false;
      }
  return calls[0].slots[0].i == input.rows * input.row_bytes;
}

void DevicePlan::take_calls(const Plan& plan) {
  std::vector<Call> calls = plan.calls;
  const bool rescaled = is_rescaled(plan.inputs[0], calls);
  for (size_t i = 0; i < plan.inputs.size(); i++)
    gather_.each[i] = {translated(plan.inputs[i].data, *plan.arena), plan.inputs[i].row_bytes, 0, 0,
                       0};
  if (rescaled) {
    rescale_args<float> r;  // those of double have the same slots
    memcpy(&r, calls[0].slots, sizeof r);
    gather_.each[0] = {translated(r.y, *plan.arena), plan.inputs[0].row_bytes, calls[0].f64 ? 8 : 4,
                       r.scale, r.offset};
    calls.erase(calls.begin());
  }
  const size_t commit = plan.commit - rescaled;
  for (const Stage& stage : stages_of(calls, commit)) {
    calls_.push_back(whole_call(stage, calls));
    if (stage.at < commit) commit_ = calls_.size();
    if (stage.rescale != Stage::kNone) {
      const double* scale = &calls[stage.rescale].slots[2].d;  // and the offset behind it
      constants_.add(scale, 2 * sizeof *scale).upload(scale, 2 * sizeof *scale);
    }
    translate(calls_.back(), *plan.arena);
  }
}

// ---- addresses -----------------------------------------------------------------------------

char* DevicePlan::translated(const void* host, const Arena& arena) {
  if (!host) return nullptr;
  for (const Mirror* mirror : {state_.get(), &constants_, arena_.get()})
    if (char* found = mirror->find(host)) return found;
  if (const Arena::Extent block = arena.block_of(host); block.begin) {
    arena_->add(block.begin, static_cast<i64>(block.size));
    return arena_->find(host);
  }
  // An empty array at the end of another.
  if (char* last = state_->find(static_cast<const char*>(host) - 1)) return last + 1;
  throw std::logic_error("DevicePlan: a call points at memory that nobody has told of");
}

void DevicePlan::translate(Call& call, const Arena& arena) {
  for (const Field& f : call.op->fields)
    for (int slot = f.slot; slot < f.slot + addresses(f); slot++)
      call.slots[slot].p = translated(call.slots[slot].p, arena);
}

void DevicePlan::take_constants(const std::vector<HostMemory>& constants) {
  for (const HostMemory& memory : constants)
    if (!state_->find(memory.data))
      constants_.add(memory.data, memory.size).upload(memory.data, memory.size);
}

void DevicePlan::take_workspace() {
  i64 most = 0;
  for (const Call& call : calls_)
    most = std::max(most, device_->api.workspace(call.op->id, call.f64, call.slots));
  workspace_.emplace(device_, most);
}

void DevicePlan::read(const void* result, void* to, i64 bytes) const {
  const char* from = arena_->find(result);
  if (!from) throw std::logic_error("DevicePlan: no result of this plan");
  device_->check(device_->steps().download(device_->queue, to, from, bytes));
}

// ---- graphs --------------------------------------------------------------------------------

void DevicePlan::queue_calls(size_t from, size_t to) {
  for (size_t i = from; i < to; i++)
    device_->check(device_->api.launch(device_->queue, calls_[i].op->id, calls_[i].f64,
                                       calls_[i].slots, workspace_->data()));
}

// Of what is kept: to its place before the step, or back.
void DevicePlan::queue_copies(bool back) {
  for (const Kept& kept : kept_) {
    CudaCopy copy{};
    copy.to = back ? kept.data : kept.before->data();
    copy.from = back ? kept.before->data() : kept.data;
    copy.ndim = 1;
    copy.item = 4;
    copy.shape[0] = kept.before->size() / 4;
    copy.to_strides[0] = copy.from_strides[0] = 4;
    device_->check(device_->api.copy(device_->queue, copy));
  }
}

void DevicePlan::queue_part(Part part) {
  const CudaQueue queue = device_->queue;
  if (part == trial || part == body) queue_copies(false);
  if (part != commit) device_->check(device_->steps().gather(queue, gather_));
  queue_calls(part == commit ? commit_ : 0,
              part == whole || part == commit ? calls_.size() : commit_);
  CudaConclude conclude = conclude_;
  if (part == trial) conclude.updates = nullptr;
  if (part != body) device_->check(device_->steps().conclude(queue, conclude));
  if (part == trial) queue_copies(true);
}

void DevicePlan::require_graph(Part part) {
  if (graphs_[part]) return;
  const CudaQueue queue = device_->queue;
  device_->check(device_->steps().begin_capture(queue));
  try {
    queue_part(part);
  } catch (...) {
    void* unfinished = nullptr;
    if (!device_->steps().end_capture(queue, &unfinished))
      device_->steps().forget(queue.device, unfinished);
    throw;
  }
  device_->check(device_->steps().end_capture(queue, &graphs_[part]));
}

void DevicePlan::replay(Part part) {
  device_->check(device_->steps().replay(device_->queue, graphs_[part]));
}

// ---- runs ----------------------------------------------------------------------------------

// All that may fail for want of memory comes first.
void DevicePlan::prepare(const Steps& s) {
  const i64 column = s.count * static_cast<i64>(sizeof(double));
  const i64 bytes = column * static_cast<i64>(1 + s.records.size());
  if (!columns_ || columns_->size() < bytes) columns_.emplace(device_, bytes);
  if (s.update && s.guard) {
    require_graph(body);
    require_graph(commit);
  } else {
    require_graph(s.update ? whole : trial);
  }
  CudaRun run{};
  run.first_row = s.first_row;
  run.rows = s.rows;
  run.period = s.wrap ? (s.rows - s.first_row) / gather_.batch : 0;
  run.seed = s.seed;
  run.epoch = s.epoch;
  run.shuffle = s.shuffle;
  if (s.lr) {
    columns_->upload(s.lr, column);
    run.lr = reinterpret_cast<const double*>(columns_->data());
  }
  for (int i = 0; i < gather_.inputs; i++) run.sources[i] = s.sources[i].data;
  for (size_t r = 0; r < s.records.size(); r++) {
    auto is_it = [&](const HostMemory& number) { return number.data == s.records[r].from; };
    const auto found = std::find_if(numbers_.begin(), numbers_.end(), is_it);
    if (found == numbers_.end()) throw std::logic_error("DevicePlan: a record of no number");
    run.records[found - numbers_.begin()] = columns_->data() + column * static_cast<i64>(r + 1);
  }
  run_.upload(&run, sizeof run);
  if (s.clock) clock_->upload(s.clock, sizeof *s.clock);
}

bool DevicePlan::one_step(const Steps& s) {
  if (!s.update || !s.guard) {
    replay(s.update ? whole : trial);
    return true;
  }
  replay(body);
  i64 guard;
  device_->check(
      device_->steps().download(device_->queue, &guard, arena_->find(s.guard), sizeof guard));
  if (guard >= 0) {
    queue_copies(true);
    return false;
  }
  replay(commit);
  return true;
}

void DevicePlan::finish(const Steps& s, i64 done) {
  const i64 column = s.count * static_cast<i64>(sizeof(double));
  for (size_t r = 0; r < s.records.size(); r++)
    columns_->download(s.records[r].to, done * static_cast<i64>(s.records[r].size),
                       column * static_cast<i64>(r + 1));
  device_->check(device_->api.wait(device_->queue));
  if (!s.clock) return;
  if (s.lr && done) s.clock->lr = s.lr[done - 1];
  if (s.update) s.clock->set(s.clock->updates + done);
}

i64 DevicePlan::stretch(const Steps& s, i64 count) {
  void* timer = nullptr;
  if (s.seconds) device_->check(device_->steps().start_timer(device_->queue, &timer));
  i64 done = 0;
  while (done < count && one_step(s)) done++;
  if (!s.seconds) return done;
  double seconds = 0;
  device_->check(device_->steps().stop_timer(device_->queue, timer, &seconds));
  *s.seconds += seconds;
  return done;
}

// Signals are looked for after stretches of at least 20 ms, for which the host must wait.
i64 DevicePlan::run(const Steps& s) {
  prepare(s);
  i64 done = 0, length = s.interrupted ? 1 : s.count;
  for (bool stop = false; done < s.count && !stop;) {
    const auto begin = std::chrono::steady_clock::now();
    const i64 asked = std::min(length, s.count - done), got = stretch(s, asked);
    done += got;
    if (got < asked || done == s.count) break;
    device_->check(device_->api.wait(device_->queue));
    if (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(20)) length *= 2;
    stop = s.interrupted();
  }
  finish(s, done);
  return done;
}

}  // namespace fnn
