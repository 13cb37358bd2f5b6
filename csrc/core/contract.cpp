#include "contract.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace fnn {
namespace {

template <template <class> class Args, class Get>
auto with_type(const Slot* slots, bool f64, Get get) {
  return f64 ? get(*reinterpret_cast<const Args<double>*>(slots))
             : get(*reinterpret_cast<const Args<float>*>(slots));
}

template <template <class> class Args> double cost(const Slot* slots, bool f64) {
  return with_type<Args>(slots, f64, [](const auto& a) { return a.cost(); });
}

template <template <class> class Args> i64 scratch_bytes(const Slot* slots, bool f64, int threads) {
  return with_type<Args>(slots, f64, [=](const auto& a) -> i64 {
    if constexpr (requires { a.scratch_bytes(threads); }) return a.scratch_bytes(threads);
    return 0;
  });
}

template <template <class> class Args> const char* check(const Slot* slots, bool f64) {
  return with_type<Args>(slots, f64, [](const auto& a) -> const char* {
    if constexpr (requires { a.check(); }) return a.check();
    return nullptr;
  });
}

// Unlike strtod, whatever the locale makes of a decimal point.
template <class Number> Number parse(const std::string& text) {
  Number number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = std::min(text.find(separator, begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

// "(n..., c)" to axes; the DIMs come before the arrays in a stanza.
std::vector<Axis> parse_shape(const OpInfo& op, const std::string& shape) {
  std::vector<Axis> axes;
  std::string inside;
  for (char c : shape.substr(1, shape.size() - 2))
    if (c != ' ') inside += c;
  if (inside.empty()) return axes;
  for (std::string word : split(inside, ',')) {
    bool group = word.size() > 3 && word.ends_with("...");
    if (group) word.resize(word.size() - 3);
    const Field* dim = op.find(word);
    if (!dim) throw std::logic_error(op.name + ": unknown length " + word);
    axes.push_back({dim->slot, group});
  }
  return axes;
}

Type parse_type(std::string_view name) {
  return name == "T"     ? Type::T
         : name == "i64" ? Type::i64
         : name == "u8"  ? Type::u8
                         : Type::boolean;
}

// Fills in what follows from a stanza's raw fields: slots, axes, words, the KW marker.
void finish(OpInfo& op, std::vector<Field> raw) {
  bool keyword_only = false;
  std::string first_shape;
  for (Field& f : raw) {
    if (f.name == "KW") {
      keyword_only = true;
      continue;
    }
    f.keyword_only = keyword_only;
    f.slot = op.slots;
    op.slots += f.kind == Kind::mat ? 3 : f.kind == Kind::targets ? 2 : 1;
    if (f.kind == Kind::scratch) op.scratch_slot = f.slot;
    if (f.kind == Kind::halves) op.halves_slot = f.slot;
    if (f.kind == Kind::choice) f.words = split(f.text, '|');
    if (f.standard == "REQUIRED") f.standard.clear();
    f.number = parse<double>(f.standard);
    f.integer = parse<i64>(f.standard);
    if (!f.shape.empty()) f.axes = parse_shape(op, f.shape);
    if (f.is_array() || f.is_result()) {
      if (first_shape.empty()) first_shape = f.shape;
      op.elementwise &= f.shape == first_shape && f.axes.size() == 1 && f.axes[0].group;
    }
    op.in_place |= f.is_inout();
    op.fields.push_back(std::move(f));
  }
  for (const Field& f : op.fields) op.in_place &= !f.is_result();
  if (op.slots > kMaxSlots) throw std::logic_error(op.name + ": more than kMaxSlots fields");
}

std::vector<OpInfo> make_ops() {
  std::vector<OpInfo> ops;
#define OP(name, doc)                        \
  ops.push_back({op_##name,                  \
                 #name,                      \
                 doc,                        \
                 {},                         \
                 0,                          \
                 -1,                         \
                 -1,                         \
                 true,                       \
                 false,                      \
                 cost<name##_args>,          \
                 scratch_bytes<name##_args>, \
                 check<name##_args>});       \
  finish(ops.back(), {
  // clang-format off: a table
#define DIM(name, doc)                       {Kind::dim, #name, "", "", doc},
#define LAST(name, doc)                      {Kind::dim, #name, "", "last", doc},
#define IN(name, type, shape, doc)           {Kind::in, #name, #shape, "", doc, parse_type(#type)},
#define OPT(name, type, shape, doc)          {Kind::opt, #name, #shape, "", doc, parse_type(#type)},
#define MAT(name, shape, doc)                {Kind::mat, #name, #shape, "", doc},
#define INOUT(name, type, shape, doc)        {Kind::inout, #name, #shape, "", doc, parse_type(#type)},
#define OPTINOUT(name, type, shape, doc)     {Kind::optinout, #name, #shape, "", doc, parse_type(#type)},
#define TARGETS(name, n, c, doc)             {Kind::targets, #name, "(" #n ", " #c ")", "", doc},
#define OUT(name, type, shape, doc)          {Kind::out, #name, #shape, "", doc, parse_type(#type)},
#define OPTOUT(name, type, shape, flag, doc) {Kind::optout, #name, #shape, #flag, doc, parse_type(#type)},
#define LOSS(name, shape, doc)               {Kind::loss, #name, #shape, "", doc},
#define HALVES                               {Kind::halves, "halves", "", "", ""},
#define FUSED(type, name, doc)               {Kind::fused, #name, "", "", doc},
#define NUMBER(kind, name, dflt, doc)        {kind, #name, "", "", doc, Type::T, 0, {}, {}, false, #dflt},
#define REAL(name, dflt, doc)                NUMBER(Kind::real, name, dflt, doc)
#define INT(name, dflt, doc)                 NUMBER(Kind::integer, name, dflt, doc)
#define FLAG(name, dflt, doc)                NUMBER(Kind::flag, name, dflt, doc)
#define SCALAR(name, dflt, doc)              NUMBER(Kind::scalar, name, dflt, doc)
#define COUNTER(name, dflt, doc)             NUMBER(Kind::counter, name, dflt, doc)
#define CHOICE(name, words, dflt, doc)       {Kind::choice, #name, "", words, doc, Type::T, 0, {}, {}, false, #dflt},
#define KW                                   {Kind::dim, "KW", "", "", ""},
#define SCRATCH(bytes)                       {Kind::scratch, "scratch", "", "", ""},
// clang-format on
#define END(name)                                                              \
  });                                                                          \
  if (static_cast<size_t>(ops.back().slots) * 8 != sizeof(name##_args<float>)) \
    throw std::logic_error(#name ": fields don't fill the struct");
#include "each_op.h"
#undef NUMBER
  return ops;
}

std::string value_text(const Field& f, const Slot* slots) {
  const Slot& s = slots[f.slot];
  if (f.kind != Kind::real && f.kind != Kind::scalar) return std::to_string(s.i);
  char text[40];
  double value = f.kind == Kind::real ? s.d : *static_cast<const double*>(s.p);
  return {text, std::to_chars(text, std::end(text), value, std::chars_format::general, 10).ptr};
}

}  // namespace

const Field* OpInfo::find(std::string_view field) const {
  for (const Field& f : fields)
    if (f.name == field) return &f;
  return nullptr;
}

const std::vector<OpInfo>& all_ops() {
  static const auto& ops = *new std::vector<OpInfo>(make_ops());  // threads may outlive main()
  return ops;
}

std::string fill_in(const OpInfo& op, const Slot* slots, const char* text) {
  std::string filled;
  for (const char* c = text; *c; c++) {
    if (*c != '{') {
      filled += *c;
      continue;
    }
    const char* end = c + 1;
    while (*end != '}') end++;
    filled += value_text(*op.find(std::string_view(c + 1, end)), slots);
    c = end;
  }
  return filled;
}

}  // namespace fnn
