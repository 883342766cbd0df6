/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Services: listener -> rule -> slice of the ring -> endpoint. */
#ifndef LOX_SERVICE_H
#define LOX_SERVICE_H

#include "work.h"

/* Services that may stand behind each other as endpoints. */
#define LOX_SERVICES_BEHIND 2
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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LOX_SERVED_BITS / 64);
	__type(key, __u32);
	__type(value, __u64);
} served SEC(".maps");

LOX_ARRAY(rules, struct lox_rule, BPF_F_MMAPABLE);
LOX_ARRAY(endpoints, struct lox_endpoint, BPF_F_MMAPABLE);
LOX_ARRAY(ring, struct lox_ring_line, BPF_F_MMAPABLE);

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct lox_client);
	__type(value, struct lox_affinity);
} affinities SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lox_source_key);
	__type(value, __u32);
} sources SEC(".maps");

/* Addresses of services and endpoints: fragments from or to them may be a flow's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, union lox_addr);
	__type(value, __u32);
} hosts SEC(".maps");

/* What is known of an address: enum lox_host, or LOX_HOST_UNKNOWN. */
LOX_INLINE __u32 lox_host(const bool v6, const union lox_addr *addr)
{
	union lox_addr key = {};
	__u32 *kind;

	if (v6)
		key = *addr;
	else
		key.v4 = addr->v4;
	kind = bpf_map_lookup_elem(&hosts, &key);
	return kind ? *kind : LOX_HOST_UNKNOWN;
}

/* False when this is no service address for certain. */
LOX_INLINE bool lox_maybe_served(const bool v6, const union lox_addr *addr)
{
	__u32 word = v6 ? addr->word[0] ^ addr->word[1] ^ addr->word[2] ^ addr->word[3] : addr->word[0];
	__u32 bit = (word * LOX_SERVED_FACTOR) >> 16, at = bit / 64;
	__u64 *bits = bpf_map_lookup_elem(&served, &at);

	return bits && *bits >> (bit & 63) & 1;
}

/* Value of the listener at an address, a port (0 for ICMP echo) and a mark; 0 when there is none. */
LOX_INLINE __u32 lox_listener_at(const bool v6, const union lox_addr *addr, __be16 port, __u8 proto, __u32 mark)
{
	__u32 *value;

	if (v6) {
		struct lox_listener6 key = { .addr = *addr, .port = port, .proto = proto, .mark = mark };

		value = bpf_map_lookup_elem(&listeners6, &key);
	} else {
		struct lox_listener4 key = { .addr = addr->v4, .port = port, .proto = proto, .mark = mark };

		value = bpf_map_lookup_elem(&listeners4, &key);
	}
	return value ? *value : 0;
}

/* Rule of the service at an address and port for what has no mark; 0 when there is none. */
LOX_INLINE __u32 lox_service_at(const bool v6, const union lox_addr *addr, __be16 port, __u8 proto)
{
	return lox_maybe_served(v6, addr) ? lox_listener_at(v6, addr, port, proto, 0) & LOX_LISTENER_RULE : 0;
}

/* Position in a slice of `length` for a new flow. */
LOX_INLINE __u32 lox_position(const bool v6, const struct lox_rule *rule, __u32 rule_id, const struct lox_tuple *t,
			      __u32 length)
{
	struct lox_rule_state *state;

	if (rule->select == LOX_SELECT_HASH)
		return lox_mix(v6, t, LOX_SELECT_KEY0, LOX_SELECT_KEY1) % length;
	state = bpf_map_lookup_elem(&rule_states, &rule_id);
	return state ? lox_add(&state->position, 1) % length : 0;
}

/* Endpoint at a position of the ring; 0 is none. */
LOX_INLINE __u32 lox_ring_at(__u32 at)
{
	__u32 line_at = at / LOX_RING_LINE;
	struct lox_ring_line *line = bpf_map_lookup_elem(&ring, &line_at);

	return line ? line->endpoint[at % LOX_RING_LINE] : 0;
}

LOX_INLINE struct lox_endpoint *lox_live_endpoint(__u32 id, __u32 rule_id)
{
	struct lox_endpoint *e = bpf_map_lookup_elem(&endpoints, &id);

	return e && e->flags & LOX_ENDPOINT_LIVE && e->rule == rule_id ? e : NULL;
}

/* May this endpoint be given a new flow? */
LOX_INLINE bool lox_takes_flows(__u32 id, __u32 rule_id)
{
	struct lox_endpoint *e = lox_live_endpoint(id, rule_id);

	return e && !(e->flags & LOX_ENDPOINT_DRAINING);
}

struct lox_least {
	__u32 base;
	__u32 at;
	__u32 active;
	__u32 share;
};

static long lox_least_step(__u32 i, struct lox_least *least)
{
	__u32 id = lox_ring_at(least->base + i);
	struct lox_endpoint_state *state = bpf_map_lookup_elem(&endpoint_states, &id);
	struct lox_endpoint *e = bpf_map_lookup_elem(&endpoints, &id);
	__u32 active = state ? READ_ONCE(state->active) : ~0U, share = e ? e->flags >> LOX_SHARE_SHIFT : 0;

	if (state && (__s32)active < 0) /* flows of the endpoint that had this slot before still end */
		active = 0;
	share = share ?: LOX_FULL_SHARE;
	/* With one more flow, which has the fewer for its share? */
	if (((__u64)active + 1) * least->share < ((__u64)least->active + 1) * share) {
		least->active = active;
		least->share = share;
		least->at = least->base + i;
	}
	return 0;
}

LOX_RECORD(least_record, struct lox_least)
LOX_LOOP(lox_least_step, struct lox_least, least_record)

/* Least connections: the endpoint with the fewest live flows for its share, the first of several. */
LOX_INLINE __u32 lox_least_of(__u32 base, __u32 length)
{
	struct lox_least least = { .base = base, .at = base, .active = ~0U, .share = 1 };

	lox_least_step_loop(length, &least);
	return lox_ring_at(least.at);
}

LOX_INLINE void lox_client_of(const bool v6, const struct lox_tuple *t, __u32 rule_id, struct lox_client *client)
{
	__builtin_memset(client, 0, sizeof(*client));
	client->rule = rule_id;
	if (v6)
		client->addr = t->saddr;
	else
		client->addr.v4 = t->saddr.v4;
}

/* Persistence: the endpoint this client was given, while it comes back in time and that takes flows. 0 without one. */
LOX_INLINE __u32 lox_remembered(const bool v6, const struct lox_rule *rule, __u32 rule_id, const struct lox_tuple *t)
{
	struct lox_affinity *affinity;
	struct lox_client client;

	lox_client_of(v6, t, rule_id, &client);
	affinity = bpf_map_lookup_elem(&affinities, &client);
	if (!affinity || lox_now() - affinity->last > rule->persist || !lox_takes_flows(affinity->endpoint, rule_id))
		return 0;
	affinity->last = lox_now();
	return affinity->endpoint;
}

LOX_INLINE void lox_remember(const bool v6, __u32 rule_id, const struct lox_tuple *t, __u32 endpoint)
{
	struct lox_affinity affinity = { .endpoint = endpoint, .last = lox_now() };
	struct lox_client client;

	lox_client_of(v6, t, rule_id, &client);
	bpf_map_update_elem(&affinities, &client, &affinity, BPF_ANY);
}

/* Id of the endpoint for a new flow; 0 when there is none. */
LOX_INLINE __u32 lox_select(const bool v6, const struct lox_rule *rule, __u32 rule_id, const struct lox_tuple *t)
{
	__u64 slice = READ_ONCE(*(__u64 *)&rule->ring_base); /* base and length belong together: one load */
	__u32 base = slice, length = slice >> 32, id = 0;

	if (!length)
		return 0;
	if (rule->select == LOX_SELECT_LC)
		return lox_least_of(base, length);
	if (rule->select == LOX_SELECT_PERSIST)
		id = lox_remembered(v6, rule, rule_id, t);
	if (id)
		return id;
	id = lox_ring_at(base + lox_position(v6, rule, rule_id, t, length));
	if (rule->select == LOX_SELECT_PERSIST)
		lox_remember(v6, rule_id, t, id);
	return id;
}

/* May this client use the rule? */
LOX_INLINE bool lox_allowed(const bool v6, const struct lox_rule *rule, __u32 rule_id, const struct lox_tuple *t)
{
	struct lox_source_key key = { .prefix = 32 + (v6 ? 128 : 32), .rule = rule_id };

	if (!rule->restricted)
		return true;
	if (v6)
		key.addr = t->saddr;
	else
		key.addr.v4 = t->saddr.v4;
	return bpf_map_lookup_elem(&sources, &key);
}

/* Has the rule as many half-open flows as it may have? The flows of a rule that had this id before may still count. */
LOX_INLINE bool lox_crowded(const struct lox_rule *rule, __s32 half_open)
{
	return rule->half_open_limit && half_open >= 0 && (__u32)half_open >= rule->half_open_limit;
}

/* Choose an endpoint for a new flow. Returns its id, or the negative reason to refuse it. */
LOX_INLINE int lox_choose_for(const bool v6, __u32 rule_id, const struct lox_tuple *t)
{
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &rule_id);
	__u32 id;

	if (!rule || !rule->live)
		return -LOX_DROP_NO_ENDPOINT;
	if (!lox_allowed(v6, rule, rule_id, t))
		return -LOX_DROP_SOURCE;
	id = lox_select(v6, rule, rule_id, t);
	return lox_live_endpoint(id, rule_id) ? (int)id : -LOX_DROP_NO_ENDPOINT;
}

/* The same for the packet in hand, whose flow will be half-open. */
LOX_INLINE int lox_choose(const bool v6, __u32 rule_id)
{
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &rule_id);
	struct lox_work *w = lox_work();

	if (!w || !rule)
		return -LOX_DROP_NO_ENDPOINT;
	if (rule->half_open_limit && lox_crowded(rule, lox_count_half_open(rule_id, 0)))
		return -LOX_DROP_HALF_OPEN;
	return lox_choose_for(v6, rule_id, &w->p.tuple);
}

__noinline int lox_choose4(__u32 rule_id)
{
	return lox_choose(false, rule_id);
}

__noinline int lox_choose6(__u32 rule_id)
{
	return lox_choose(true, rule_id);
}

#endif
