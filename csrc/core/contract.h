// ops.def as data: what every op's fields are called, where they sit in the argument struct, and
// which shapes belong together. Knows nothing of Python.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "dispatch.h"

namespace fnn {

union Slot {
  const void* p;
  i64 i;
  double d;
};

enum { kMaxSlots = 40, kMaxAxes = 32 };

enum class Kind {
  dim,
  in,
  opt,
  mat,
  inout,
  optinout,
  targets,
  out,
  optout,
  loss,
  halves,
  fused,  // null but in a plan
  real,
  integer,
  flag,
  choice,
  scalar,
  counter,
  scratch
};
enum class Type { T, i64, u8, boolean };

struct Axis {
  int slot;    // the DIM's slot
  bool group;  // n...: any number of axes
};

struct Field {
  Kind kind;
  std::string name, shape, text, doc;  // text: the default, or the words of a CHOICE
  Type type = Type::T;
  int slot = 0;
  std::vector<Axis> axes = {};
  std::vector<std::string> words = {};
  bool keyword_only = false;
  std::string standard = {};  // default value as written; empty if there is none
  double number = 0;          // and as numbers
  i64 integer = 0;

  bool is_array() const {
    return kind == Kind::in || kind == Kind::opt || kind == Kind::mat || is_inout();
  }
  bool is_inout() const { return kind == Kind::inout || kind == Kind::optinout; }
  bool is_result() const { return kind == Kind::out || kind == Kind::optout || kind == Kind::loss; }
  bool is_argument() const {
    return kind != Kind::dim && kind != Kind::scratch && kind != Kind::halves &&
           kind != Kind::fused && !is_result();
  }
  bool optional() const { return kind == Kind::opt || kind == Kind::optinout || !standard.empty(); }
};

struct OpInfo {
  int id;
  std::string name, doc;
  std::vector<Field> fields;
  int slots = 0;
  int scratch_slot = -1;
  int halves_slot = -1;
  bool elementwise = true;  // every array has the same shape: results may alias inputs
  bool in_place = false;    // updates arrays (a _step op): takes lists, too
  double (*cost)(const Slot*, bool f64);
  i64 (*scratch_bytes)(const Slot*, bool f64, int threads);
  const char* (*check)(const Slot*, bool f64);  // null, or the text of the violated REQUIRE

  const Field* find(std::string_view field) const;
};

const std::vector<OpInfo>& all_ops();

// A REQUIRE's text with each {field} replaced by its value.
std::string fill_in(const OpInfo& op, const Slot* slots, const char* text);

// One recorded call: a kernel with its arguments.
struct Call {
  const OpInfo* op;
  bool f64;
  Slot slots[kMaxSlots];
};

}  // namespace fnn
