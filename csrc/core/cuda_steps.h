// What _core asks of _cuda to run training steps on a GPU: a stream of its own, graphs, and the two
// kernels of a step that are no op. Part of the table in cuda.h.
#pragma once
#include "ops.h"

namespace fnn {

struct CudaQueue;
struct CudaError;

enum { kStepInputs = 3, kStepRecords = 4 };

// What all steps of one run go by, in device memory: a captured graph reads it anew in every step.
struct CudaRun {
  i64 step;                     // number of the step at hand in this run
  i64 first_row, rows, period;  // after so many batches it starts over; 0: never
  u64 seed, epoch;
  i64 shuffle;
  const double* lr;                  // one per step; null: none
  const char* sources[kStepInputs];  // rows of the data
  char* records[kStepRecords];       // one element per step; null: not wanted
};

// The begin of a step: the rows of its batch, and its learning rate.
struct CudaGather {
  const CudaRun* run;
  i64 batch;
  int inputs;
  struct {
    char* to;
    i64 row_bytes;  // of the source
    int widened;    // 0: copied; 4, 8: bytes to floats or doubles, times scale plus offset
    double scale, offset;
  } each[kStepInputs];
  double* lr;
};

// The end of a step: its numbers, the clock, and on to the next.
struct CudaConclude {
  CudaRun* run;
  i64* updates;  // null: no update
  double* step;
  int records;
  struct {
    const void* from;
    i64 size;
  } each[kStepRecords];
};

struct CudaSteps {
  CudaError (*open)(int device, void** stream);
  void (*close)(CudaQueue queue);
  CudaError (*upload)(CudaQueue queue, void* to, const void* from, i64 bytes);
  CudaError (*download)(CudaQueue queue, void* to, const void* from, i64 bytes);  // waits
  // What is queued between the two is recorded into a graph instead.
  CudaError (*begin_capture)(CudaQueue queue);
  CudaError (*end_capture)(CudaQueue queue, void** graph);
  CudaError (*replay)(CudaQueue queue, void* graph);
  void (*forget)(int device, void* graph);
  // Seconds that the stream takes for what is queued between the two; the second waits.
  CudaError (*start_timer)(CudaQueue queue, void** timer);
  CudaError (*stop_timer)(CudaQueue queue, void* timer, double* seconds);
  CudaError (*gather)(CudaQueue queue, const CudaGather& gather);
  CudaError (*conclude)(CudaQueue queue, const CudaConclude& conclude);
};

}  // namespace fnn
