/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The flow tables: open addressing in BPF arrays, one slot a direction.
 *
 * A key lives in the LOX_WINDOW slots from its hash on. Readers take no lock: they find a live slot with their key,
 * copy what they need and check that the slot's word has not changed. Writers change the word by atomic exchange only:
 * free -> claimed -> live -> dead -> claimed or free, and count each claim in it.
 *
 * Two rules make a lookup exact:
 *  - Insertions whose keys hash to one region exclude each other, so no key is in a table twice.
 *  - A lookup ends at the first free slot. So a dead slot becomes free only if no live flow behind it depends on it, and
 *    under the locks of every insertion that could be passing over it (see ager.h).
 *
 * There are two tables a family. Half-open flows live in a small one, where the oldest gives way, so they can never
 * displace established flows. The large one never evicts; what finds no slot in its window goes to a hash map that is
 * looked at only while it is not empty.
 */
#ifndef LOX_FLOW_H
#define LOX_FLOW_H

#include "atomic.h"
#include "call.h"
#include "packet.h"

enum lox_table { LOX_MAIN, LOX_HALF };

LOX_ARRAY(flow4, struct lox_flow4, BPF_F_MMAPABLE);
LOX_ARRAY(flow6, struct lox_flow6, BPF_F_MMAPABLE);
LOX_ARRAY(half4, struct lox_whole4, BPF_F_MMAPABLE);
LOX_ARRAY(half6, struct lox_flow6, BPF_F_MMAPABLE);
LOX_ARRAY(flow4_cold, struct lox_cold, BPF_F_MMAPABLE);

/*
 * One bit a slot of the large tables: not free. Small enough for the caches, where a slot that was not used lately is a
 * miss down to memory: whether a key has no flow is mostly known from its home's bit.
 */
LOX_ARRAY(used4, __u64, 0);
LOX_ARRAY(used6, __u64, 0);

#define LOX_OVERFLOW(_name, _key, _value)                                                                              \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__uint(max_entries, 1);                                                                                \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__type(key, _key);                                                                                     \
		__type(value, _value);                                                                                 \
	} _name SEC(".maps")

LOX_OVERFLOW(overflow4, struct lox_key4, struct lox_whole4);
LOX_OVERFLOW(overflow6, struct lox_key6, struct lox_flow6);

/* A flow found: `word` is its slot's word at that moment, `at` its index (LOX_NOWHERE in the overflow map). */
struct lox_ref {
	struct lox_flow *flow;
	struct lox_cold *cold; /* of lox_look_up() only */
	__u32 word;
	__u32 at;
	enum lox_table table;
	__u32 pad;
};

#define LOX_NOWHERE 0xffffffffU

LOX_INLINE __u32 lox_mask(const bool v6, const enum lox_table table)
{
	if (v6)
		return table == LOX_MAIN ? cfg.flow6_mask : cfg.half6_mask;
	return table == LOX_MAIN ? cfg.flow4_mask : cfg.half4_mask;
}

LOX_INLINE struct lox_flow *lox_slot(const bool v6, const enum lox_table table, __u32 at)
{
	if (v6)
		return table == LOX_MAIN ? bpf_map_lookup_elem(&flow6, &at) : bpf_map_lookup_elem(&half6, &at);
	return table == LOX_MAIN ? bpf_map_lookup_elem(&flow4, &at) : bpf_map_lookup_elem(&half4, &at);
}

LOX_INLINE __u64 *lox_used(const bool v6, __u32 at)
{
	__u32 word = at >> 6;

	return v6 ? bpf_map_lookup_elem(&used6, &word) : bpf_map_lookup_elem(&used4, &word);
}

/* Mark a slot of a large table before it is claimed. */
LOX_INLINE void lox_mark_used(const bool v6, __u32 at)
{
	__u64 *used = lox_used(v6, at);

	if (used)
		lox_set_bits(used, 1ULL << (at & 63));
}

/* A slot of a large table has become free; under the locks that keep insertions off it. */
LOX_INLINE void lox_mark_free(const bool v6, __u32 at)
{
	__u64 *used = lox_used(v6, at);

	if (used)
		lox_clear_bits(used, 1ULL << (at & 63));
}

LOX_INLINE __u32 lox_window(const enum lox_table table)
{
	return table == LOX_MAIN ? LOX_WINDOW : LOX_HALF_WINDOW;
}

/* The cold half of a flow; `spilled`: it lives in the overflow map. */
LOX_INLINE struct lox_cold *lox_cold_of(const bool v6, const enum lox_table table, struct lox_flow *f, __u32 at,
					const bool spilled)
{
	OPAQUE(f); /* clang 14 computes the address before the caller's check for NULL */
	if (v6)
		return &((struct lox_flow6 *)f)->cold;
	if (table == LOX_HALF || spilled)
		return &((struct lox_whole4 *)f)->cold;
	return bpf_map_lookup_elem(&flow4_cold, &at);
}

/* Multiply-xorshift over the tuple. */
LOX_INLINE __u32 lox_mix(const bool v6, const struct lox_tuple *t, __u64 first_key, __u64 second_key)
{
	__u64 ports = (__u64)t->sport << 32 | (__u64)t->dport << 16 | t->proto;
	__u64 h = first_key;

	if (v6) {
		h = (h ^ t->saddr.half[0]) * 0x9fb21c651e98df25ULL;
		h = (h ^ h >> 32 ^ t->saddr.half[1]) * 0xd6e8feb86659fd93ULL;
		h = (h ^ h >> 32 ^ t->daddr.half[0]) * 0xa0761d6478bd642fULL;
		h = h ^ h >> 32 ^ t->daddr.half[1];
	} else {
		h ^= (__u64)t->saddr.v4 << 32 | t->daddr.v4;
	}
	h = (h ^ h >> 32) * 0xd6e8feb86659fd93ULL;
	h ^= (ports ^ second_key) * 0xff51afd7ed558ccdULL;
	h = (h ^ h >> 29) * 0xc4ceb9fe1a85ec53ULL;
	return h >> 32;
}

/* Home of a key in a table, keyed per boot so that nobody can aim at a window. */
LOX_INLINE __u32 lox_hash(const bool v6, const struct lox_tuple *t)
{
	return lox_mix(v6, t, cfg.secret[0], cfg.secret[1]);
}

LOX_INLINE bool lox_equal6(const union lox_addr *a, const union lox_addr *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

LOX_INLINE bool lox_same(const bool v6, const struct lox_flow *f, const struct lox_tuple *t)
{
	if (*(const __u32 *)&f->sport != *(const __u32 *)&t->sport || f->proto != t->proto)
		return false;
	if (v6) {
		const struct lox_flow6 *six = (const void *)f;

		return lox_equal6(&six->saddr, &t->saddr) && lox_equal6(&six->daddr, &t->daddr);
	}
	return ((const struct lox_flow4 *)f)->saddr == t->saddr.v4 && ((const struct lox_flow4 *)f)->daddr == t->daddr.v4;
}

LOX_INLINE void lox_key4_of(struct lox_key4 *key, const struct lox_tuple *t)
{
	key->saddr = t->saddr.v4;
	key->daddr = t->daddr.v4;
	key->sport = t->sport;
	key->dport = t->dport;
	key->proto = t->proto;
}

LOX_INLINE void lox_key6_of(struct lox_key6 *key, const struct lox_tuple *t)
{
	key->saddr = t->saddr;
	key->daddr = t->daddr;
	key->sport = t->sport;
	key->dport = t->dport;
	key->proto = t->proto;
}

LOX_INLINE struct lox_flow *lox_overflow_find(const bool v6, const struct lox_tuple *t)
{
	if (v6) {
		struct lox_key6 key;

		lox_key6_of(&key, t);
		return bpf_map_lookup_elem(&overflow6, &key);
	} else {
		struct lox_key4 key;

		lox_key4_of(&key, t);
		return bpf_map_lookup_elem(&overflow4, &key);
	}
}

LOX_INLINE bool lox_overflowing(const bool v6)
{
	struct lox_runtime *rt = lox_runtime();

	return rt && READ_ONCE(*(v6 ? &rt->overflow6 : &rt->overflow4));
}

/* True when a key with this hash is not in the large table for certain. */
LOX_INLINE bool lox_vacant(const bool v6, __u32 hash)
{
	__u32 home = hash & lox_mask(v6, LOX_MAIN);
	__u64 *used = lox_used(v6, home);

	return used && !(READ_ONCE(*used) >> (home & 63) & 1) && !lox_overflowing(v6);
}

/* Find the live flow with this key; ref->flow is NULL when there is none. */
LOX_INLINE void lox_find(const bool v6, const enum lox_table table, const struct lox_tuple *t, __u32 hash,
			 struct lox_ref *ref)
{
	__u32 mask = lox_mask(v6, table);

	ref->table = table;
	for (__u32 i = 0; i < lox_window(table); i++) {
		__u32 at = (hash + i) & mask;
		struct lox_flow *f = lox_slot(v6, table, at);
		__u32 word;

		if (!f)
			break;
		word = READ_ONCE(f->word);
		if ((word & LOX_SLOT_MASK) == LOX_SLOT_FREE)
			break;
		if ((word & LOX_SLOT_MASK) == LOX_SLOT_LIVE && lox_same(v6, f, t)) {
			ref->flow = f;
			ref->word = word;
			ref->at = at;
			return;
		}
	}
	ref->flow = NULL;
	if (table == LOX_MAIN && lox_overflowing(v6)) {
		struct lox_flow *f = lox_overflow_find(v6, t);

		if (f && ((ref->word = READ_ONCE(f->word)) & LOX_SLOT_MASK) == LOX_SLOT_LIVE) {
			ref->flow = f;
			ref->at = LOX_NOWHERE;
		}
	}
}

/*
 * The same off the plain path, as global functions: the verifier looks at each of them once, whoever calls. The answer
 * is the slot's word (high half) and index (low half), or 0: the word of a live slot is never 0.
 */
LOX_INLINE __u64 lox_seek(const bool v6, const enum lox_table table, const struct lox_tuple *t)
{
	__u32 hash = lox_hash(v6, t);
	struct lox_ref ref;

	if (table == LOX_MAIN && lox_vacant(v6, hash))
		return 0;
	lox_find(v6, table, t, hash, &ref);
	return ref.flow ? (__u64)ref.word << 32 | ref.at : 0;
}

LOX_RECORD(seek_record, struct lox_tuple)

LOX_FUNCTION(__u64, lox_seek_main4, struct lox_tuple, seek_record, lox_seek(false, LOX_MAIN, in), 0)
LOX_FUNCTION(__u64, lox_seek_main6, struct lox_tuple, seek_record, lox_seek(true, LOX_MAIN, in), 0)
LOX_FUNCTION(__u64, lox_seek_half4, struct lox_tuple, seek_record, lox_seek(false, LOX_HALF, in), 0)
LOX_FUNCTION(__u64, lox_seek_half6, struct lox_tuple, seek_record, lox_seek(true, LOX_HALF, in), 0)

LOX_INLINE __u64 lox_seek_in(const bool v6, const enum lox_table table, struct lox_tuple *t)
{
	if (v6)
		return table == LOX_MAIN ? lox_seek_main6(t) : lox_seek_half6(t);
	return table == LOX_MAIN ? lox_seek_main4(t) : lox_seek_half4(t);
}

/* Find the flow with this key off the plain path; ref->flow is NULL when there is none. */
LOX_INLINE void lox_look_up(const bool v6, const enum lox_table table, struct lox_tuple *t, struct lox_ref *ref)
{
	__u64 found = lox_seek_in(v6, table, t);

	ref->table = table;
	ref->word = found >> 32;
	ref->at = (__u32)found;
	ref->flow = NULL;
	ref->cold = NULL;
	if (found && table == LOX_MAIN && ref->at == LOX_NOWHERE) {
		ref->flow = lox_overflow_find(v6, t);
		if (ref->flow)
			ref->cold = lox_cold_of(v6, table, ref->flow, ref->at, true);
	} else if (found) {
		ref->flow = lox_slot(v6, table, ref->at);
		if (ref->flow)
			ref->cold = lox_cold_of(v6, table, ref->flow, ref->at, false);
	}
}

LOX_INLINE bool lox_present(const bool v6, const enum lox_table table, struct lox_tuple *t)
{
	return lox_seek_in(v6, table, t) != 0;
}

/* True while the slot still holds the flow that was found. */
LOX_INLINE bool lox_holds(const struct lox_ref *ref)
{
	BARRIER();
	return READ_ONCE(ref->flow->word) == ref->word;
}

/* The key under which the other direction of a flow arrives. */
LOX_INLINE void lox_reverse(const bool v6, const struct lox_flow *f, struct lox_tuple *t)
{
	if (v6) {
		t->saddr = ((const struct lox_flow6 *)f)->new_daddr;
		t->daddr = ((const struct lox_flow6 *)f)->new_saddr;
	} else {
		t->saddr.v4 = ((const struct lox_flow4 *)f)->new_daddr;
		t->daddr.v4 = ((const struct lox_flow4 *)f)->new_saddr;
	}
	t->sport = f->new_dport;
	t->dport = f->new_sport;
	t->proto = f->proto;
}

#endif
