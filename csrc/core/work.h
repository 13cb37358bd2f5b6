// What a call has to do, told from the contract: operations, bytes, and a shape to call it by.
#pragma once
#include <initializer_list>

#include "contract.h"

namespace fnn {

// "128x784x512": rows, terms and columns of a product; the lengths of another op's first array.
std::string shape_text(const Call& call);

i64 flops(const Call& call);  // of a product: a multiplication and an addition per term

// Of the arrays that it reads and writes, those it updates twice, those left out not.
i64 bytes(const Call& call, std::initializer_list<std::string_view> left_out = {});

}  // namespace fnn
