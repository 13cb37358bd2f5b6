// Drives the thread pool for ThreadSanitizer: teams of every size, barriers, teams inside teams,
// callers on several threads at once, forks. Prints what failed; exit status 1 then.
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "../../csrc/core/threads.h"

namespace {

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  printf("FAILED: %s\n", what);
  failures++;
}

// Every rank writes its part, and after a barrier sums all parts.
bool team_adds_up(int size, int phases) {
  std::vector<i64> parts(1024), sums(1024);
  int most = 0;
  fnn::run_team(size, [&](const Team& team) {
    if (team.rank == 0) most = team.size;
    for (int phase = 1; phase <= phases; phase++) {
      share(team, 1000, [&](i64 task) { parts[static_cast<size_t>(task)] = task * phase; });
      barrier(team);
      i64 sum = 0;
      for (i64 task = 0; task < 1000; task++) sum += parts[static_cast<size_t>(task)];
      sums[static_cast<size_t>(team.rank)] = sum - i64{phase - 1} * 499500;
      barrier(team);
    }
  });
  for (int rank = 0; rank < most; rank++)
    if (sums[static_cast<size_t>(rank)] != 499500) return false;
  return most >= 1 && most <= size;
}

bool nested() {
  i64 inner = 0;
  fnn::run_team(4, [&](const Team& team) {
    if (team.rank == 0) fnn::run_team(4, [&](const Team& own) { inner += own.size; });
  });
  return inner == 1;  // the pool is in use: the inner team is its caller alone
}

bool concurrent_callers() {
  std::vector<std::thread> callers;
  std::vector<char> right(8);
  for (size_t c = 0; c < right.size(); c++)
    callers.emplace_back([&right, c] {
      right[c] = true;
      for (int i = 0; i < 50; i++) right[c] &= team_adds_up(1 + i % 4, 3);
    });
  for (auto& caller : callers) caller.join();
  for (char r : right)
    if (!r) return false;
  return true;
}

// A child uses the pool although its workers are the parent's; and so does a child of the child.
bool forks(int depth) {
  pid_t child = fork();
  if (child == 0) {
    bool right = team_adds_up(4, 5) && (depth == 1 || forks(depth - 1));
    _exit(right ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

int main() {
  for (int round = 0; round < 20; round++)
    for (int size = 1; size <= 8; size++) check(team_adds_up(size, 20), "a team adds up");
  check(nested(), "a team inside a team");
  check(concurrent_callers(), "callers on several threads");
  for (int i = 0; i < 10; i++) check(forks(2), "a forked child");
  check(team_adds_up(8, 20), "the parent after its forks");
  printf("%s\n", failures ? "pool: failures" : "pool: all right");
  return failures ? 1 : 0;
}
