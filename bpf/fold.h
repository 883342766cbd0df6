/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Traffic of an endpoint = that of its ended flows (map traffic) + that of its live ones, summed here when asked. So a
 * packet is counted once, in its flow, and the plain path touches no other counter.
 */
#ifndef LOX_FOLD_H
#define LOX_FOLD_H

#include "insert.h"

/* The sums, while they are read. At all other times what the daemon told last: the next one must not tell less. */
LOX_ARRAY(live_traffic, struct lox_traffic, BPF_F_MMAPABLE);


static long lox_fold_clear(__u32 i, void *unused)
{
	struct lox_traffic *t = bpf_map_lookup_elem(&live_traffic, &i);

	if (t)
		t->packets = t->bytes = 0;
	return 0;
}

LOX_INLINE void lox_fold_add(const struct lox_flow *f, const struct lox_cold *cold)
{
	__u32 endpoint = cold->endpoint;
	struct lox_traffic *t = bpf_map_lookup_elem(&live_traffic, &endpoint);

	if (t) {
		t->packets += f->packets;
		t->bytes += f->bytes;
	}
}

LOX_INLINE long lox_fold_slot(const bool v6, const enum lox_table table, __u32 at)
{
	struct lox_flow *f = lox_slot(v6, table, at);
	struct lox_cold *cold;

	if (!f)
		return 1;
	if ((READ_ONCE(f->word) & LOX_SLOT_MASK) != LOX_SLOT_LIVE)
		return 0;
	cold = lox_cold_of(v6, table, f, at, false);
	if (cold)
		lox_fold_add(f, cold);
	return 0;
}

static long lox_fold_main4(__u32 i, __u32 *base)
{
	return lox_fold_slot(false, LOX_MAIN, *base + i);
}

static long lox_fold_main6(__u32 i, __u32 *base)
{
	return lox_fold_slot(true, LOX_MAIN, *base + i);
}

static long lox_fold_half4(__u32 i, __u32 *base)
{
	return lox_fold_slot(false, LOX_HALF, *base + i);
}

static long lox_fold_half6(__u32 i, __u32 *base)
{
	return lox_fold_slot(true, LOX_HALF, *base + i);
}

static long lox_fold_overflow4(struct bpf_map *map, const void *key, struct lox_whole4 *f, void *unused)
{
	lox_fold_add(&f->flow.head, &f->cold);
	return 0;
}

static long lox_fold_overflow6(struct bpf_map *map, const void *key, struct lox_flow6 *f, void *unused)
{
	lox_fold_add(&f->head, &f->cold);
	return 0;
}

#define LOX_FOLD_CHUNK (1U << 22) /* bpf_loop allows 2^23 rounds */
#define LOX_FOLD_CHUNKS 16

LOX_RECORD(base_record, __u32)
LOX_LOOP(lox_fold_main4, __u32, base_record)
LOX_LOOP(lox_fold_main6, __u32, base_record)
LOX_LOOP(lox_fold_half4, __u32, base_record)
LOX_LOOP(lox_fold_half6, __u32, base_record)

LOX_INLINE void lox_fold_slots(const bool v6, const enum lox_table table, __u32 base, __u32 length)
{
	if (table == LOX_MAIN)
		return v6 ? lox_fold_main6_loop(length, &base) : lox_fold_main4_loop(length, &base);
	return v6 ? lox_fold_half6_loop(length, &base) : lox_fold_half4_loop(length, &base);
}

LOX_INLINE void lox_fold_table(const bool v6, const enum lox_table table)
{
	__u32 mask = lox_mask(v6, table);

	for (__u32 i = 0; i < LOX_FOLD_CHUNKS; i++) {
		__u32 base = i * LOX_FOLD_CHUNK, left = mask + 1 - base;

		if (base > mask)
			break;
		lox_fold_slots(v6, table, base, left < LOX_FOLD_CHUNK ? left : LOX_FOLD_CHUNK);
	}
}

/* Sum the traffic of all live flows into live_traffic. One at a time: the caller sees to it. */
LOX_INLINE int lox_fold(void)
{
	bpf_loop(cfg.endpoints, lox_fold_clear, NULL, 0);
	lox_fold_table(false, LOX_MAIN);
	lox_fold_table(true, LOX_MAIN);
	lox_fold_table(false, LOX_HALF);
	lox_fold_table(true, LOX_HALF);
	lox_for_each(overflow4, lox_fold_overflow4, NULL);
	lox_for_each(overflow6, lox_fold_overflow6, NULL);
	return 0;
}

#endif
