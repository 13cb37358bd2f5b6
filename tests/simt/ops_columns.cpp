// Ops that sum over the rows of a matrix.
#include "ops_harness.h"

void test_column_sum() {
  for (auto [n, c] : {std::pair(0, 3), std::pair(1, 1), std::pair(7, 33), std::pair(300, 70),
                      std::pair(1000, 5)}) {
    COMPARE(column_sum, label("column_sum", {n, c}), (Accuracy{64, false}), 0,
            [n = n, c = c]<class T>(Arrays& m, T) {
              column_sum_args<T> a{};
              a.n = n;
              a.c = c;
              a.x = m.normal<T>(size_t(n) * c, 1);
              a.y = m.output<T>("y", c);
              return a;
            });
  }
}
