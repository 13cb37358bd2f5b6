// The race detector as the rest of the emulator sees it; in the other builds nothing happens.
// Happens-before is kept per 4-byte word with a mask of its bytes (race.cpp).
#pragma once
#include "machine.h"

namespace emu::race {

enum Kind { plain, atomic_access, async_proxy };

#if EMU_RACE
void begin_launch();
void begin_block(Block& block);
void full_barrier(Block& block);
void grid_barrier(const std::vector<Block*>& blocks);
void join_lanes(Thread** lanes, int count);
void release(Thread* thread, Clocks& to);
void acquire(Thread* thread, const Clocks& from);
void fence(Thread* thread);
void async_reads_done(Thread** threads, int count);
// An access by the emulator on behalf of a kernel.
void access(Thread* thread, const void* p, size_t bytes, bool write, Location where,
            Kind kind = plain);
// From now on (or no longer) written or read by a copy or a wgmma that was not waited for.
void set_in_flight(const void* p, size_t bytes, bool on, bool reading, Thread* by, Location where);
void async_write_done(Thread* issuer, const void* p, size_t bytes, Clocks& barrier);
void allocated(const void* p, size_t bytes, bool on);
void initialised(const void* p, size_t bytes);
#else
inline void begin_launch() {}
inline void begin_block(Block&) {}
inline void full_barrier(Block&) {}
inline void grid_barrier(const std::vector<Block*>&) {}
inline void join_lanes(Thread**, int) {}
inline void release(Thread*, Clocks&) {}
inline void acquire(Thread*, const Clocks&) {}
inline void fence(Thread*) {}
inline void async_reads_done(Thread**, int) {}
inline void access(Thread*, const void*, size_t, bool, Location, Kind = plain) {}
inline void set_in_flight(const void*, size_t, bool, bool, Thread*, Location) {}
inline void async_write_done(Thread*, const void*, size_t, Clocks&) {}
inline void allocated(const void*, size_t, bool) {}
inline void initialised(const void*, size_t) {}
#endif

}  // namespace emu::race
