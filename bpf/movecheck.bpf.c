// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * A flow moves to the large table while other CPUs work on it: each run moves one, and lets things happen to it before the
 * move, in its midst and after it, as if done by CPUs that have found the flow before.
 */
#include "promote.h"

enum lox_mishap {
	LOX_MISHAP_NONE,
	LOX_MISHAP_RESET,      /* a RST for the flow in the half-open table */
	LOX_MISHAP_RESET_MAIN, /* a RST for the flow in the large table */
	LOX_MISHAP_GIVES_WAY,  /* a newer flow takes its slot in the half-open table */
	LOX_MISHAP_MOVED,      /* another CPU moves it */
	LOX_MISHAP_DROPPED,    /* it ends in the half-open table */
};

struct lox_move_plan {
	__u32 key;
	__u32 before;
	__u32 between;
	__u32 after;
};

struct lox_move_result {
	__s32 counted; /* live flows of the endpoint after the move */
	__u32 live;    /* is it in the large table, and not closed? */
	__s32 left;    /* live flows when everything has ended */
	__s32 half_open; /* half-open flows then */
};

LOX_ARRAY(move_plan, struct lox_move_plan, 0);
LOX_ARRAY(move_result, struct lox_move_result, 0);

/* The flow that moves, the same as another CPU moves it, and one that takes its slot. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct lox_insert);
} moves SEC(".maps");

#define LOX_ENDPOINT 1

LOX_INLINE struct lox_insert *lox_move_record(__u32 at, __u32 key)
{
	struct lox_insert *in = bpf_map_lookup_elem(&moves, &at);

	if (!in)
		return NULL;
	__builtin_memset(in, 0, sizeof(*in));
	in->key.saddr.v4 = key;
	in->key.proto = IPPROTO_TCP;
	in->state = LOX_STATE_SYN_RECEIVED;
	in->cold.endpoint = LOX_ENDPOINT;
	in->keep = LOX_NOWHERE;
	return in;
}

LOX_INLINE void lox_move_reset(const struct lox_ref *ref)
{
	if (!ref->flow)
		return;
	lox_set_state(ref->flow, NULL, LOX_STATE_RESET, false);
	lox_leave_endpoint(ref->flow, LOX_ENDPOINT);
}

LOX_INLINE void lox_move_mishap(const bool v6, __u32 mishap, __u32 key, const struct lox_ref *half)
{
	struct lox_insert *other = lox_move_record(mishap == LOX_MISHAP_GIVES_WAY ? 2 : 1, key);
	struct lox_ref main;

	if (!other)
		return;
	if (mishap == LOX_MISHAP_RESET) {
		lox_move_reset(half);
	} else if (mishap == LOX_MISHAP_RESET_MAIN) {
		lox_look_up(v6, LOX_MAIN, &other->key, &main);
		lox_move_reset(&main);
	} else if (mishap == LOX_MISHAP_GIVES_WAY && lox_holds(half)) {
		other->key.saddr.v4 = ~key;
		lox_count_flow(LOX_ENDPOINT, 1);
		lox_count_half_open(0, 1);
		lox_take(v6, LOX_HALF, half->at, half->word, other, lox_now());
	} else if (mishap == LOX_MISHAP_MOVED) {
		lox_move(v6, other, half, LOX_STATE_ESTABLISHED);
	} else if (mishap == LOX_MISHAP_DROPPED) {
		lox_drop(v6, &other->key, half);
	}
}

LOX_INLINE __s32 lox_move_counted(void)
{
	__u32 endpoint = LOX_ENDPOINT;
	struct lox_endpoint_state *state = bpf_map_lookup_elem(&endpoint_states, &endpoint);

	return state ? (__s32)state->active : -1000;
}

/* End the flow with this key, in whichever table. */
LOX_INLINE void lox_move_end(const bool v6, const enum lox_table table, struct lox_tuple *key)
{
	struct lox_ref ref;

	lox_look_up(v6, table, key, &ref);
	if (ref.flow)
		lox_drop(v6, key, &ref);
}

LOX_INLINE int lox_move_check(const bool v6)
{
	__u32 zero = 0;
	struct lox_move_plan *plan = bpf_map_lookup_elem(&move_plan, &zero);
	struct lox_move_result *result = bpf_map_lookup_elem(&move_result, &zero);
	struct lox_insert *in = plan ? lox_move_record(0, plan->key) : NULL;
	struct lox_ref half, main;
	int put;

	if (!in || !result)
		return 1;
	lox_count_flow(LOX_ENDPOINT, 1);
	lox_count_half_open(0, 1);
	lox_put_in(v6, LOX_HALF, in);
	lox_look_up(v6, LOX_HALF, &in->key, &half);
	if (!half.flow || !half.cold)
		return 1;
	lox_move_mishap(v6, plan->before, plan->key, &half);
	put = lox_enter(v6, in, &half, LOX_STATE_ESTABLISHED);
	lox_move_mishap(v6, plan->between, plan->key, &half);
	lox_depart(v6, in, &half, put);
	lox_move_mishap(v6, plan->after, plan->key, &half);

	in = lox_move_record(0, plan->key);
	if (!in)
		return 1;
	result->counted = lox_move_counted();
	lox_look_up(v6, LOX_MAIN, &in->key, &main);
	result->live = main.flow && !lox_over(main.flow->state);
	lox_move_end(v6, LOX_MAIN, &in->key);
	lox_move_end(v6, LOX_HALF, &in->key);
	half.word = READ_ONCE(half.flow->word);
	if ((half.word & LOX_SLOT_MASK) == LOX_SLOT_LIVE) { /* the one that took its place */
		result->counted -= !(half.flow->flags & LOX_FLOW_CLOSED);
		lox_drop(v6, &in->key, &half);
	}
	result->left = lox_move_counted();
	result->half_open = lox_count_half_open(0, 0);
	return 0;
}

SEC("tc")
int check_move4(struct __sk_buff *ctx)
{
	return lox_move_check(false);
}

SEC("tc")
int check_move6(struct __sk_buff *ctx)
{
	return lox_move_check(true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
