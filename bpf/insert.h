/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Writing the flow tables: insertion, and the end of a flow. The rules are those of flow.h. */
#ifndef LOX_INSERT_H
#define LOX_INSERT_H

#include "flow.h"

enum lox_put { LOX_PUT_DONE, LOX_PUT_EXISTS, LOX_PUT_FULL, LOX_PUT_BUSY };

/* Traffic of the ended flows of each endpoint; that of the live ones is in their slots. */
LOX_ARRAY(traffic, struct lox_traffic, BPF_F_MMAPABLE);

/* Live flows of each endpoint. */
LOX_ARRAY(endpoint_states, struct lox_endpoint_state, BPF_F_MMAPABLE);

LOX_ARRAY(rule_states, struct lox_rule_state, BPF_F_MMAPABLE);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOX_LOCKS);
	__type(key, __u32);
	__type(value, __u32);
} locks SEC(".maps");

/*
 * A flow to be inserted: its key, what it is rewritten to, and what it belongs to. `at` is the answer. `keep` is the slot of
 * its other direction, which must not give way to it though it may be as old as all others.
 */
struct lox_insert {
	struct lox_tuple key;
	union lox_addr new_saddr;
	union lox_addr new_daddr;
	__be16 new_sport;
	__be16 new_dport;
	__u8 flags;
	__u8 state;
	__u16 next_hop;
	__u16 generation;
	__u8 window_scale;
	__u8 pad;
	__u64 sequence;
	struct lox_cold cold;
	__u32 at;
	__u32 keep;
};

/* Room for values too large for the stack, one record a CPU; the programs run with preemption off. */
union lox_spill {
	struct lox_whole4 four;
	struct lox_flow6 six;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, union lox_spill);
} spill SEC(".maps");

LOX_INLINE void lox_count_flow(__u32 endpoint, __s32 change)
{
	struct lox_endpoint_state *state = bpf_map_lookup_elem(&endpoint_states, &endpoint);

	if (state)
		__sync_fetch_and_add(&state->active, change);
}

LOX_INLINE void lox_count_opened(__u32 endpoint)
{
	struct lox_endpoint_state *state = bpf_map_lookup_elem(&endpoint_states, &endpoint);

	if (state)
		__sync_fetch_and_add(&state->opened, 1);
}

/* Take a flow off its endpoint's live flows, once; the direction from the client stands for both. */
LOX_INLINE void lox_leave_endpoint(struct lox_flow *f, __u32 endpoint)
{
	if (!(f->flags & LOX_FLOW_REPLY) && !(lox_set_flags(f, LOX_FLOW_CLOSED) & LOX_FLOW_CLOSED))
		lox_count_flow(endpoint, -1);
}

/* Count the half-open flows of a rule; returns how many there were. */
LOX_INLINE __s32 lox_count_half_open(__u32 rule, __s32 change)
{
	struct lox_rule_state *state = bpf_map_lookup_elem(&rule_states, &rule);

	return state ? (__s32)lox_add((__u32 *)&state->half_open, change) : 0;
}

/* A flow has left the half-open table; the direction from the client stands for both. */
LOX_INLINE void lox_leave_half_open(const struct lox_flow *f, __u32 rule)
{
	if (!(f->flags & LOX_FLOW_REPLY))
		lox_count_half_open(rule, -1);
}

/* Add the traffic of a flow that ended to its endpoint's. */
LOX_INLINE void lox_retire(struct lox_flow *f, __u32 endpoint)
{
	struct lox_traffic *t = bpf_map_lookup_elem(&traffic, &endpoint);

	if (t) {
		__sync_fetch_and_add(&t->packets, f->packets);
		__sync_fetch_and_add(&t->bytes, f->bytes);
	}
	lox_leave_endpoint(f, endpoint);
}

/* The lock of the insertions whose keys hash near `home`; a home-made one, since calls are not allowed under a bpf_spin_lock. */
LOX_INLINE __u32 *lox_lock_of(const bool v6, const enum lox_table table, __u32 home)
{
	__u32 at = ((home >> LOX_REGION_SHIFT) * 4 + v6 * 2 + (table == LOX_HALF)) & (LOX_LOCKS - 1);

	return bpf_map_lookup_elem(&locks, &at);
}

LOX_INLINE bool lox_try_lock(__u32 *lock)
{
	return lox_swap(lock, 0, 1);
}

LOX_INLINE void lox_unlock(__u32 *lock)
{
	lox_store(lock, 0);
}

/* Holders run with preemption off for some ten nanoseconds, so a bounded number of tries is enough. */
LOX_INLINE bool lox_lock(__u32 *lock)
{
	for (int i = 0; i < 512; i++)
		if (lox_try_lock(lock))
			return true;
	return false;
}

LOX_INLINE void lox_fill(const bool v6, struct lox_flow *f, const struct lox_insert *in, __u32 now)
{
	f->last = now;
	f->sport = in->key.sport;
	f->dport = in->key.dport;
	f->new_sport = in->new_sport;
	f->new_dport = in->new_dport;
	f->proto = in->key.proto;
	f->flags = in->flags;
	f->state = in->state;
	f->window_scale = in->window_scale;
	f->next_hop = in->next_hop;
	f->generation = in->generation;
	f->sequence = in->sequence;
	f->packets = 0;
	f->bytes = 0;
	if (v6) {
		struct lox_flow6 *six = (void *)f;

		six->saddr = in->key.saddr;
		six->daddr = in->key.daddr;
		six->new_saddr = in->new_saddr;
		six->new_daddr = in->new_daddr;
	} else {
		struct lox_flow4 *four = (void *)f;

		four->saddr = in->key.saddr.v4;
		four->daddr = in->key.daddr.v4;
		four->new_saddr = in->new_saddr.v4;
		four->new_daddr = in->new_daddr.v4;
	}
}

/* Claim, fill and publish one slot that is not live, or (half-open) the given live one. */
LOX_INLINE bool lox_take(const bool v6, const enum lox_table table, __u32 at, __u32 word, struct lox_insert *in,
			 __u32 now)
{
	struct lox_flow *f = lox_slot(v6, table, at);
	__u32 claimed = ((word & ~LOX_SLOT_MASK) + LOX_SLOT_CLAIM) | LOX_SLOT_CLAIMED;
	struct lox_cold *cold;

	if (table == LOX_MAIN)
		lox_mark_used(v6, at);
	if (!f || !lox_swap(&f->word, word, claimed))
		return false;
	cold = lox_cold_of(v6, table, f, at, false);
	if (cold) {
		if ((word & LOX_SLOT_MASK) == LOX_SLOT_LIVE) { /* only half-open flows give way */
			lox_retire(f, cold->endpoint);
			lox_leave_half_open(f, cold->rule);
		}
		*cold = in->cold;
	}
	lox_fill(v6, f, in, now);
	lox_store(&f->word, (claimed & ~LOX_SLOT_MASK) | LOX_SLOT_LIVE);
	in->at = at;
	return true;
}

/* The window is full of live flows: keep this one in the hash map. */
LOX_INLINE int lox_put_overflow(const bool v6, struct lox_insert *in, __u32 now)
{
	struct lox_runtime *rt = lox_runtime();
	__u32 zero = 0;
	union lox_spill *value = bpf_map_lookup_elem(&spill, &zero);
	long failed;

	if (!rt || !value)
		return LOX_PUT_FULL;
	/* A value of its own claim count: the element may stand where another flow's stood. */
	value->four.flow.head.word = (bpf_get_prandom_u32() & ~LOX_SLOT_MASK) | LOX_SLOT_LIVE;
	if (v6) {
		struct lox_key6 key;

		lox_key6_of(&key, &in->key);
		lox_fill(v6, &value->six.head, in, now);
		value->six.cold = in->cold;
		failed = bpf_map_update_elem(&overflow6, &key, &value->six, BPF_NOEXIST);
	} else {
		struct lox_key4 key;

		lox_key4_of(&key, &in->key);
		lox_fill(v6, &value->four.flow.head, in, now);
		value->four.cold = in->cold;
		failed = bpf_map_update_elem(&overflow4, &key, &value->four, BPF_NOEXIST);
	}
	if (failed)
		return LOX_PUT_FULL;
	__sync_fetch_and_add(v6 ? &rt->overflow6 : &rt->overflow4, 1);
	in->at = LOX_NOWHERE;
	return LOX_PUT_DONE;
}

LOX_INLINE bool lox_reusable(__u32 word, const struct lox_flow *f, __u32 now)
{
	__u32 slot = word & LOX_SLOT_MASK;

	return slot == LOX_SLOT_FREE || (slot == LOX_SLOT_DEAD && now - f->last >= LOX_QUARANTINE);
}

/*
 * Under the region's lock: take the first slot of the window that may be used. Half-open, the oldest gives way if there
 * is none; established, the flow goes to the overflow map.
 */
LOX_INLINE int lox_settle(const bool v6, const enum lox_table table, struct lox_insert *in, __u32 home, __u32 now)
{
	__u32 mask = lox_mask(v6, table), oldest_at = home & mask, oldest_word = 0, oldest_age = 0;

	for (__u32 i = 0; i < lox_window(table); i++) {
		__u32 at = (home + i) & mask;
		struct lox_flow *f = lox_slot(v6, table, at);
		__u32 word;

		if (!f)
			break;
		word = READ_ONCE(f->word);
		if (lox_reusable(word, f, now) && lox_take(v6, table, at, word, in, now))
			return LOX_PUT_DONE;
		if (table == LOX_HALF && at != in->keep && (word & LOX_SLOT_MASK) != LOX_SLOT_CLAIMED &&
		    now - f->last >= oldest_age) {
			oldest_age = now - f->last;
			oldest_at = at;
			oldest_word = word;
		}
	}
	if (table == LOX_MAIN)
		return lox_put_overflow(v6, in, now);
	if (oldest_word && lox_take(v6, table, oldest_at, oldest_word, in, now))
		return LOX_PUT_DONE;
	return LOX_PUT_BUSY;
}

/* Insert a flow unless its key is there. Its counters start at zero. */
LOX_INLINE int lox_put(const bool v6, const enum lox_table table, struct lox_insert *in)
{
	__u32 home = lox_hash(v6, &in->key), now = lox_now();
	__u32 *lock = lox_lock_of(v6, table, home & lox_mask(v6, table));
	struct lox_ref twin;
	int done = LOX_PUT_EXISTS;

	if (!lock || !lox_lock(lock))
		return LOX_PUT_BUSY;
	lox_find(v6, table, &in->key, home, &twin);
	if (!twin.flow)
		done = lox_settle(v6, table, in, home, now);
	lox_unlock(lock);
	return done;
}

LOX_RECORD(insert_record, struct lox_insert)

LOX_FUNCTION(int, lox_put_main4, struct lox_insert, insert_record, lox_put(false, LOX_MAIN, in), LOX_PUT_BUSY)
LOX_FUNCTION(int, lox_put_main6, struct lox_insert, insert_record, lox_put(true, LOX_MAIN, in), LOX_PUT_BUSY)
LOX_FUNCTION(int, lox_put_half4, struct lox_insert, insert_record, lox_put(false, LOX_HALF, in), LOX_PUT_BUSY)
LOX_FUNCTION(int, lox_put_half6, struct lox_insert, insert_record, lox_put(true, LOX_HALF, in), LOX_PUT_BUSY)

LOX_INLINE int lox_put_in(const bool v6, const enum lox_table table, struct lox_insert *in)
{
	if (v6)
		return table == LOX_MAIN ? lox_put_main6(in) : lox_put_half6(in);
	return table == LOX_MAIN ? lox_put_main4(in) : lox_put_half4(in);
}

/* Remove a flow's element from the overflow map, after its slot has died. */
LOX_INLINE void lox_overflow_drop(const bool v6, const struct lox_tuple *t)
{
	struct lox_runtime *rt = lox_runtime();
	long failed;

	if (v6) {
		struct lox_key6 key;

		lox_key6_of(&key, t);
		failed = bpf_map_delete_elem(&overflow6, &key);
	} else {
		struct lox_key4 key;

		lox_key4_of(&key, t);
		failed = bpf_map_delete_elem(&overflow4, &key);
	}
	if (!failed && rt)
		__sync_fetch_and_add(v6 ? &rt->overflow6 : &rt->overflow4, -1);
}

/* End a flow. True for the one caller that ended it; its counters are final then. */
LOX_INLINE bool lox_kill(const struct lox_ref *ref, __u32 now)
{
	__u32 dead = (ref->word & ~LOX_SLOT_MASK) | LOX_SLOT_DEAD;

	WRITE_ONCE(ref->flow->last, now);
	return lox_swap(&ref->flow->word, ref->word, dead);
}

/* End a flow, account its traffic to its endpoint and give its place back. */
LOX_INLINE bool lox_drop(const bool v6, const struct lox_tuple *t, const struct lox_ref *ref)
{
	if (!lox_kill(ref, lox_now()))
		return false;
	if (ref->cold)
		lox_retire(ref->flow, ref->cold->endpoint);
	if (ref->cold && ref->table == LOX_HALF)
		lox_leave_half_open(ref->flow, ref->cold->rule);
	if (ref->at == LOX_NOWHERE)
		lox_overflow_drop(v6, t);
	return true;
}

#endif
