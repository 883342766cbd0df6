/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Services: listener -> rule -> slice of the ring -> endpoint. */
#ifndef LOX_SERVICE_H
#define LOX_SERVICE_H

#include "flow.h"

/* Keys of selection by hash: fixed, so that two load balancers choose alike. */
#define LOX_SELECT_KEY0 0x243f6a8885a308d3ULL
#define LOX_SELECT_KEY1 0x13198a2e03707344ULL

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lox_listener4);
	__type(value, __u32);
} listeners4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lox_listener6);
	__type(value, __u32);
} listeners6 SEC(".maps");

LOX_ARRAY(rules, struct lox_rule, BPF_F_MMAPABLE);
LOX_ARRAY(rule_states, struct lox_rule_state, BPF_F_MMAPABLE);
LOX_ARRAY(endpoints, struct lox_endpoint, BPF_F_MMAPABLE);
LOX_ARRAY(ring, struct lox_ring_line, BPF_F_MMAPABLE);

struct lox_choice {
	struct lox_endpoint *endpoint;
	__u32 endpoint_id;
	__u32 rule_id;
	__u32 mode;
	__u32 pad;
};

/* Rule of the service this packet is addressed to; 0 when there is none. */
LOX_INLINE __u32 lox_listener(const bool v6, const struct lox_packet *p)
{
	bool echo = p->tuple.proto == IPPROTO_ICMP || p->tuple.proto == IPPROTO_ICMPV6;
	__be16 port = echo ? 0 : p->tuple.dport;
	__u32 *rule;

	if (echo && p->echo_reply)
		return 0;
	if (v6) {
		struct lox_listener6 key = { .addr = p->tuple.daddr, .port = port, .proto = p->tuple.proto };

		rule = bpf_map_lookup_elem(&listeners6, &key);
	} else {
		struct lox_listener4 key = { .addr = p->tuple.daddr.v4, .port = port, .proto = p->tuple.proto };

		rule = bpf_map_lookup_elem(&listeners4, &key);
	}
	return rule ? *rule : 0;
}

/* Position in a slice of `length` for a new flow. */
LOX_INLINE __u32 lox_position(const bool v6, const struct lox_rule *rule, __u32 rule_id, const struct lox_tuple *t,
			      __u32 length)
{
	struct lox_rule_state *state;

	if (rule->select == LOX_SELECT_HASH)
		return lox_mix(v6, t, LOX_SELECT_KEY0, LOX_SELECT_KEY1) % length;
	state = bpf_map_lookup_elem(&rule_states, &rule_id);
	return state ? (__u32)__sync_fetch_and_add(&state->position, 1) % length : 0;
}

/* Endpoint at a position of the ring; 0 is none. */
LOX_INLINE __u32 lox_ring_at(__u32 at)
{
	__u32 line_at = at / LOX_RING_LINE;
	struct lox_ring_line *line = bpf_map_lookup_elem(&ring, &line_at);

	return line ? line->endpoint[at % LOX_RING_LINE] : 0;
}

/* Choose an endpoint for a new flow. Returns 0 or the reason to drop. */
LOX_INLINE int lox_choose(const bool v6, __u32 rule_id, const struct lox_tuple *t, struct lox_choice *choice)
{
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &rule_id);
	__u64 slice;

	if (!rule || !rule->live)
		return LOX_DROP_NO_ENDPOINT;
	slice = READ_ONCE(*(__u64 *)&rule->ring_base); /* base and length belong together: one load */
	if (!(slice >> 32))
		return LOX_DROP_NO_ENDPOINT;
	choice->rule_id = rule_id;
	choice->endpoint_id = lox_ring_at((__u32)slice + lox_position(v6, rule, rule_id, t, slice >> 32));
	choice->mode = rule->mode;
	choice->endpoint = bpf_map_lookup_elem(&endpoints, &choice->endpoint_id);
	if (!choice->endpoint || !choice->endpoint->live)
		return LOX_DROP_NO_ENDPOINT;
	return 0;
}

#endif
