/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Changes of a word that other CPUs change too, and what was there before.
 *
 * Atomic operations that return a value, or do more than add, are of Linux 5.12. The legacy build, for kernels without
 * them, does the same under a lock of the kernel's, which also keeps interrupts out. There every change of such a word has
 * to come through here; plain loads need no lock. Additions whose result nobody wants are atomic everywhere
 * (__sync_fetch_and_add), but on another word than those below.
 */
#ifndef LOX_ATOMIC_H
#define LOX_ATOMIC_H

#include "base.h"

#ifndef LOX_LEGACY

/* Store `to` where `from` is. True if it was. */
LOX_INLINE bool lox_swap(__u32 *word, __u32 from, __u32 to)
{
	return __sync_val_compare_and_swap(word, from, to) == from;
}

/* Store, after everything that was written before. */
LOX_INLINE void lox_store(__u32 *word, __u32 to)
{
	__sync_lock_test_and_set(word, to);
}

/* Add; returns what was there. */
LOX_INLINE __u32 lox_add(__u32 *word, __u32 change)
{
	return __sync_fetch_and_add(word, change);
}

LOX_INLINE void lox_set_bits(__u64 *word, __u64 bits)
{
	__sync_fetch_and_or(word, bits);
}

LOX_INLINE void lox_clear_bits(__u64 *word, __u64 bits)
{
	__sync_fetch_and_and(word, ~bits);
}

/* Where a flow's flags are in their aligned word: the byte alone cannot be changed atomically. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LOX_FLAGS_SHIFT 8
#else
#define LOX_FLAGS_SHIFT 16
#endif

/* Set flags of a live flow, whatever other CPUs set; returns those that were set before. */
LOX_INLINE __u8 lox_set_flags(struct lox_flow *f, __u8 flags)
{
	return __sync_fetch_and_or((__u32 *)&f->proto, (__u32)flags << LOX_FLAGS_SHIFT) >> LOX_FLAGS_SHIFT;
}

LOX_INLINE void lox_clear_flags(struct lox_flow *f, __u8 flags)
{
	__sync_fetch_and_and((__u32 *)&f->proto, ~((__u32)flags << LOX_FLAGS_SHIFT));
}

#else

#define LOX_GUARDS 256

struct lox_guard {
	struct bpf_spin_lock lock;
	__u32 pad[15]; /* each has its cache line */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOX_GUARDS);
	__type(key, __u32);
	__type(value, struct lox_guard);
} guards SEC(".maps");

/*
 * The lock of a word goes by its address, which is the same on every CPU and in every program. The verifier lets the 32-bit
 * half of a pointer be a number, and nothing else be done with it; the compiler knows no such step.
 */
LOX_INLINE struct lox_guard *lox_guard_of(const volatile void *word)
{
	__u64 half;
	__u32 at;

	asm volatile("r1 = %1; w1 = w1; %0 = r1" : "=r"(half) : "r"(word) : "r1");
	at = (half >> 5) & (LOX_GUARDS - 1);
	return bpf_map_lookup_elem(&guards, &at);
}

LOX_INLINE bool lox_swap(__u32 *word, __u32 from, __u32 to)
{
	struct lox_guard *guard = lox_guard_of(word);
	__u32 found;

	if (!guard)
		return false;
	bpf_spin_lock(&guard->lock);
	found = READ_ONCE(*word);
	if (found == from)
		WRITE_ONCE(*word, to);
	bpf_spin_unlock(&guard->lock);
	return found == from;
}

LOX_INLINE void lox_store(__u32 *word, __u32 to)
{
	struct lox_guard *guard = lox_guard_of(word);

	if (!guard)
		return;
	bpf_spin_lock(&guard->lock);
	WRITE_ONCE(*word, to);
	bpf_spin_unlock(&guard->lock);
}

LOX_INLINE __u32 lox_add(__u32 *word, __u32 change)
{
	struct lox_guard *guard = lox_guard_of(word);
	__u32 found;

	if (!guard)
		return 0;
	bpf_spin_lock(&guard->lock);
	found = READ_ONCE(*word);
	WRITE_ONCE(*word, found + change);
	bpf_spin_unlock(&guard->lock);
	return found;
}

LOX_INLINE void lox_set_bits(__u64 *word, __u64 bits)
{
	struct lox_guard *guard = lox_guard_of(word);

	if (!guard)
		return;
	bpf_spin_lock(&guard->lock);
	WRITE_ONCE(*word, READ_ONCE(*word) | bits);
	bpf_spin_unlock(&guard->lock);
}

LOX_INLINE void lox_clear_bits(__u64 *word, __u64 bits)
{
	struct lox_guard *guard = lox_guard_of(word);

	if (!guard)
		return;
	bpf_spin_lock(&guard->lock);
	WRITE_ONCE(*word, READ_ONCE(*word) & ~bits);
	bpf_spin_unlock(&guard->lock);
}

/* The byte alone: its neighbours are stored to without a lock. */
LOX_INLINE __u8 lox_set_flags(struct lox_flow *f, __u8 flags)
{
	struct lox_guard *guard = lox_guard_of(f);
	__u8 found;

	if (!guard)
		return 0;
	bpf_spin_lock(&guard->lock);
	found = READ_ONCE(f->flags);
	WRITE_ONCE(f->flags, found | flags);
	bpf_spin_unlock(&guard->lock);
	return found;
}

LOX_INLINE void lox_clear_flags(struct lox_flow *f, __u8 flags)
{
	struct lox_guard *guard = lox_guard_of(f);

	if (!guard)
		return;
	bpf_spin_lock(&guard->lock);
	WRITE_ONCE(f->flags, READ_ONCE(f->flags) & ~flags);
	bpf_spin_unlock(&guard->lock);
}

#endif

#endif
